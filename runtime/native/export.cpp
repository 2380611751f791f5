#include "export.h"

#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace cdp {

namespace {

// What one array owns; freed by its release callback.
struct Owned {
    std::array<const void*, 3> buffers{};
    std::array<Buffer, 3> memory;
    std::vector<ArrowArray> children;
    std::vector<ArrowArray*> child_pointers;
    ArrowArray dictionary{};
};

void release_array(ArrowArray* array) {
    auto* owned = static_cast<Owned*>(array->private_data);
    for (ArrowArray& child : owned->children) {
        if (child.release != nullptr) child.release(&child);
    }
    if (owned->dictionary.release != nullptr) owned->dictionary.release(&owned->dictionary);
    array->release = nullptr;
    delete owned;
}

int64_t count_valid(const Column& column, int64_t rows) {
    const uint8_t* bits = column.validity.data();
    int64_t count = 0;
    int64_t at = 0;
    for (; at + 64 <= rows; at += 64) {
        uint64_t word;
        std::memcpy(&word, bits + at / 8, 8);
        count += std::popcount(word);
    }
    for (; at < rows; ++at) count += (bits[at >> 3] >> (at & 7)) & 1;
    return count;
}

Owned& begin(ArrowArray& out, int64_t length, int64_t buffers, size_t children) {
    auto owned = std::make_unique<Owned>();
    owned->children.resize(children);
    for (ArrowArray& child : owned->children) owned->child_pointers.push_back(&child);
    out = ArrowArray{};
    out.length = length;
    out.n_buffers = buffers;
    out.n_children = static_cast<int64_t>(children);
    out.children = owned->child_pointers.data();
    out.buffers = owned->buffers.data();
    out.release = release_array;
    Owned& result = *owned;
    out.private_data = owned.release();
    return result;
}

void own(Owned& owned, size_t at, Buffer&& buffer) {
    // An Arrow buffer of no bytes is still not null to every reader.
    static const uint64_t kNothing = 0;
    owned.memory[at] = std::move(buffer);
    owned.buffers[at] = owned.memory[at].data() == nullptr ? static_cast<const void*>(&kNothing)
                                                           : owned.memory[at].data();
}

void export_names(const Column& column, ArrowArray& out) {
    static const std::vector<std::string> kNoNames;
    const std::vector<std::string>& names = column.names ? column.names->names : kNoNames;
    const size_t count = names.size() + column.extra_names.size();
    Buffer offsets;
    Buffer text;
    offsets.reserve((count + 1) * 4, 0);
    size_t bytes = 0;
    for (const auto* list : {&names, &column.extra_names}) {
        for (const std::string& name : *list) bytes += name.size();
    }
    text.reserve(bytes, 0);
    int32_t at = 0;
    auto* offset = offsets.as<int32_t>();
    *offset++ = 0;
    for (const auto* list : {&names, &column.extra_names}) {
        for (const std::string& name : *list) {
            if (!name.empty()) std::memcpy(text.data() + at, name.data(), name.size());
            at += static_cast<int32_t>(name.size());
            *offset++ = at;
        }
    }
    Owned& owned = begin(out, static_cast<int64_t>(count), 3, 0);
    own(owned, 1, std::move(offsets));
    own(owned, 2, std::move(text));
}

void export_column(Column& column, int64_t rows, ArrowArray& out) {
    const bool text = column.layout == Layout::Text32 || column.layout == Layout::Text64;
    const bool list = column.layout == Layout::List32 || column.layout == Layout::List64;
    const int64_t buffers = text ? 3 : column.layout == Layout::Struct ? 1 : 2;
    Owned& owned = begin(out, rows, buffers, column.children.size());
    if (column.nullable && rows > 0) {
        const int64_t valid = count_valid(column, rows);
        out.null_count = rows - valid;
        if (valid != rows) own(owned, 0, std::move(column.validity));
    }
    if (text || list) {
        if (column.offsets.data() == nullptr) column.reserve_rows(1, 0);
        if (column.next < rows) column.pad_to(rows);
        if (list) column.set_offset(rows, column.items->rows);
        own(owned, 1, std::move(column.offsets));
        if (text) own(owned, 2, std::move(column.values));
    } else if (column.layout != Layout::Struct) {
        own(owned, 1, std::move(column.values));
    }
    if (column.dictionary) {
        export_names(column, owned.dictionary);
        out.dictionary = &owned.dictionary;
    }
    for (size_t i = 0; i < column.children.size(); ++i) {
        export_column(*column.children[i], list ? column.items->rows : rows, owned.children[i]);
    }
}

}  // namespace

void export_batch(Program& program, ArrowArray& out) {
    const int64_t rows = program.rows.rows;
    export_column(program.root, rows, out);
    program.rows.clear();
    program.batch.bytes = 0;
    for (Oneof* oneof : program.root.oneofs) oneof->row = -1;
}

void export_binary(int64_t rows, Buffer offsets, const uint8_t* data, Buffer memory,
                   ArrowArray& out) {
    Owned& owned = begin(out, rows, 3, 0);
    own(owned, 1, std::move(offsets));
    own(owned, 2, std::move(memory));
    if (data != nullptr) owned.buffers[2] = data;
}

}  // namespace cdp
