// The Python module cdp_runtime._native: programs, schemas and payloads in, Arrow arrays out.
// cdp_runtime.converter is its one user and holds its documentation.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "block.h"
#include "checksum.h"
#include "decoder.h"
#include "encoder.h"
#include "export.h"
#include "held_buffer.h"
#include "pool.h"
#include "wire.h"

namespace nb = nanobind;

void bind_parquet(nb::module_& module);  // module_parquet.cpp

namespace {

using cdp::Payload;

const ArrowSchema& schema_in(const nb::object& exporter, nb::object& keep) {
    keep = exporter.attr("__arrow_c_schema__")();
    void* pointer = PyCapsule_GetPointer(keep.ptr(), "arrow_schema");
    if (pointer == nullptr) throw nb::python_error();
    return *static_cast<const ArrowSchema*>(pointer);
}

// An array for pyarrow to import, which knows its type: to import that anew with every batch takes
// longer than all else that a batch costs beside its messages.
class Exported {
  public:
    explicit Exported(std::unique_ptr<ArrowArray> array) : array_(std::move(array)) {}
    ~Exported() {
        if (array_ && array_->release != nullptr) array_->release(array_.get());
    }
    Exported(Exported&&) = default;
    Exported& operator=(Exported&&) = delete;

    uintptr_t address() const { return reinterpret_cast<uintptr_t>(array_.get()); }

  private:
    std::unique_ptr<ArrowArray> array_;
};

cdp::FieldSpec field_spec(nb::handle field);

std::shared_ptr<const cdp::ProgramSpec> program_spec(nb::handle program) {
    auto spec = std::make_shared<cdp::ProgramSpec>();
    spec->message = nb::cast<std::string>(program.attr("message"));
    for (nb::handle field : program.attr("fields")) spec->fields.push_back(field_spec(field));
    for (nb::handle pair : program.attr("oneof_cases")) {
        spec->oneof_cases.emplace_back(nb::cast<std::string>(pair[0]),
                                       nb::cast<std::string>(pair[1]));
    }
    spec->raw = nb::cast<std::string>(program.attr("raw"));
    for (nb::handle content : program.attr("contents")) {
        spec->contents.push_back(program_spec(content));
    }
    return spec;
}

std::shared_ptr<const cdp::EnumSpec> enum_spec(nb::handle enumeration) {
    auto spec = std::make_shared<cdp::EnumSpec>();
    spec->name = nb::cast<std::string>(enumeration.attr("name"));
    for (nb::handle value : enumeration.attr("values")) {
        spec->values.emplace_back(nb::cast<int32_t>(value[0]), nb::cast<std::string>(value[1]));
    }
    spec->closed = nb::cast<bool>(enumeration.attr("closed"));
    return spec;
}

cdp::FieldSpec field_spec(nb::handle field) {
    cdp::FieldSpec spec;
    spec.number = nb::cast<uint32_t>(field.attr("number"));
    spec.kind = nb::cast<std::string>(field.attr("kind"));
    spec.dropped = field.attr("column").is_none();
    if (!spec.dropped) spec.column = nb::cast<std::string>(field.attr("column"));
    spec.presence = nb::cast<std::string>(field.attr("presence"));
    spec.encoding = nb::cast<std::string>(field.attr("encoding"));
    spec.oneof = nb::cast<std::string>(field.attr("oneof"));
    spec.name = nb::cast<std::string>(field.attr("name"));
    if (!field.attr("enum").is_none()) spec.enumeration = enum_spec(field.attr("enum"));
    if (!field.attr("program").is_none()) spec.program = program_spec(field.attr("program"));
    return spec;
}

// Whether no other thread of this interpreter could run, were the GIL released.
bool is_alone() {
#ifdef Py_GIL_DISABLED
    return false;
#else
    PyThreadState* own = PyThreadState_Get();
    return PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(own)) == own &&
           PyThreadState_Next(own) == nullptr;
#endif
}

// The payloads of one call, and what keeps them in place until it ends.
class Payloads {
  public:
    explicit Payloads(size_t size) {
        memory_.reserve(size * sizeof(Payload), 0);
        list = {reinterpret_cast<Payload*>(memory_.data()), size};
    }
    Payloads(Payloads&& other) noexcept
        : list(std::exchange(other.list, {})),
          owner(std::move(other.owner)),
          needs_gil(other.needs_gil),
          memory_(std::move(other.memory_)) {}
    Payloads& operator=(Payloads&&) = delete;
    ~Payloads() {
        if (owner.is_valid()) return;
        constexpr size_t kAhead = 16;
        for (size_t i = 0; i < list.size(); ++i) {
            if (i + kAhead < list.size()) __builtin_prefetch(list[i + kAhead].data, 1);
            if (list[i].data != nullptr) Py_DECREF(object_of(list[i]));
        }
    }

    // Bytes, to which it takes over a reference where it has no owner.
    void put(size_t row, PyObject* bytes) {
        const auto* data = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(bytes));
        const auto size = static_cast<size_t>(PyBytes_GET_SIZE(bytes));
        list[row] = {data, size, data + size};
    }

    std::span<Payload> list;
    // Of an array, or of bytes that nobody else can drop for as long as the GIL is held; else each
    // payload is a bytes object, with a reference of ours.
    nb::object owner;
    bool needs_gil = false;

  private:
    static PyObject* object_of(const Payload& payload) {
        const auto at = reinterpret_cast<uintptr_t>(payload.data);
        return reinterpret_cast<PyObject*>(at - offsetof(PyBytesObject, ob_sval));
    }

    cdp::Buffer memory_;
};

template <typename Offset>
void add_binary(const ArrowArray& array, std::span<Payload> list) {
    const auto* offsets = static_cast<const Offset*>(array.buffers[1]) + array.offset;
    const auto* data = static_cast<const uint8_t*>(array.buffers[2]);
    const auto* limit = data + offsets[list.size()];
    static const uint8_t kEmpty = 0;
    for (size_t i = 0; i < list.size(); ++i) {
        const auto size = static_cast<size_t>(offsets[i + 1] - offsets[i]);
        list[i] =
            size == 0 ? Payload{&kEmpty, 0, &kEmpty} : Payload{data + offsets[i], size, limit};
    }
}

// Views of the Arrow columnar format: up to twelve bytes inline, else buffer and offset.
void add_views(const ArrowArray& array, std::span<Payload> list) {
    constexpr size_t kInline = 12;
    const auto* views = static_cast<const uint8_t*>(array.buffers[1]) + array.offset * 16;
    const auto* sizes = static_cast<const int64_t*>(array.buffers[array.n_buffers - 1]);
    for (size_t i = 0; i < list.size(); ++i, views += 16) {
        const auto size = static_cast<size_t>(cdp::load<int32_t>(views));
        if (size <= kInline) {
            list[i] = {views + 4, size, views + 4 + size};
        } else {
            const auto buffer = cdp::load<int32_t>(views + 8);
            const auto offset = cdp::load<int32_t>(views + 12);
            const auto* data = static_cast<const uint8_t*>(array.buffers[2 + buffer]);
            list[i] = {data + offset, size, data + sizes[buffer]};
        }
    }
}

Payloads payloads_of_array(const nb::object& exporter) {
    nb::tuple pair = nb::cast<nb::tuple>(exporter.attr("__arrow_c_array__")());
    const auto* schema =
        static_cast<const ArrowSchema*>(PyCapsule_GetPointer(pair[0].ptr(), "arrow_schema"));
    const auto* array =
        static_cast<const ArrowArray*>(PyCapsule_GetPointer(pair[1].ptr(), "arrow_array"));
    if (schema == nullptr || array == nullptr) throw nb::python_error();
    Payloads payloads(static_cast<size_t>(array->length));
    payloads.owner = pair;
    const std::string_view format = schema->format;
    if (format == "z") {
        add_binary<int32_t>(*array, payloads.list);
    } else if (format == "Z") {
        add_binary<int64_t>(*array, payloads.list);
    } else if (format == "vz") {
        add_views(*array, payloads.list);
    } else {
        throw nb::type_error("payloads must be a binary, large_binary or binary_view array");
    }
    if (const auto* valid = static_cast<const uint8_t*>(array->buffers[0]); valid != nullptr) {
        for (size_t i = 0; i < payloads.list.size(); ++i) {
            const size_t bit = i + static_cast<size_t>(array->offset);
            if (((valid[bit >> 3] >> (bit & 7)) & 1) == 0) payloads.list[i] = {};
        }
    }
    return payloads;
}

// A message object's bytes, or those of another buffer of bytes.
nb::object serialized(nb::handle item, size_t row) {
    if (PyObject_CheckBuffer(item.ptr()) != 0) return nb::steal(PyBytes_FromObject(item.ptr()));
    if (!nb::hasattr(item, "SerializePartialToString")) {
        throw nb::type_error(("payloads must be bytes or messages: row " + std::to_string(row) +
                              " is " + nb::type_name(item.type()).c_str())
                                 .c_str());
    }
    return item.attr("SerializePartialToString")();
}

Payloads payloads_of_sequence(const nb::object& sequence) {
    constexpr size_t kAhead = 32;  // far enough for memory to answer
    const auto fast = nb::steal(PySequence_Fast(sequence.ptr(), "payloads must be a sequence"));
    if (!fast.is_valid()) throw nb::python_error();
    const auto size = static_cast<size_t>(PySequence_Fast_GET_SIZE(fast.ptr()));
    PyObject** items = PySequence_Fast_ITEMS(fast.ptr());
    Payloads payloads(size);
    // To write a reference to each object takes as long as to read it once more. Where nobody waits
    // for the GIL it is kept instead, so that nothing can change the sequence.
    payloads.needs_gil = is_alone();
    if (payloads.needs_gil) payloads.owner = fast;
    // Each object is waited for once; what could change the sequence meanwhile comes after.
    std::vector<std::pair<size_t, nb::object>> others;
    for (size_t i = 0; i < size; ++i) {
        if (i + kAhead < size) __builtin_prefetch(items[i + kAhead], 1);
        if (PyBytes_CheckExact(items[i])) {
            payloads.put(i, payloads.needs_gil ? items[i] : Py_NewRef(items[i]));
        } else {
            payloads.list[i] = {};
            others.emplace_back(i, nb::borrow(items[i]));
        }
    }
    if (others.empty()) return payloads;
    if (payloads.needs_gil) {  // which those may release
        for (size_t i = 0; i < size; ++i) {
            if (payloads.list[i].data != nullptr) Py_INCREF(items[i]);
        }
        payloads.owner.reset();
        payloads.needs_gil = false;
    }
    for (const auto& [row, item] : others) {
        nb::object bytes = serialized(item, row);
        if (!bytes.is_valid() || !PyBytes_Check(bytes.ptr())) throw nb::python_error();
        payloads.put(row, bytes.release().ptr());
    }
    return payloads;
}

class Codec {
  public:
    Codec(const nb::object& program, const nb::object& schema, cdp::Limits limits,
          std::vector<std::string> registry_indexes)
        : limits_(limits), registry_indexes_(std::move(registry_indexes)) {
        nb::object keep;
        const ArrowSchema& arrow = schema_in(schema, keep);
        program_ = cdp::Program::compile(*program_spec(program), arrow, limits.max_columns);
    }

    nb::tuple decode(const nb::object& source, bool stop_at_bad) {
        Payloads payloads = nb::hasattr(source, "__arrow_c_array__") ? payloads_of_array(source)
                                                                     : payloads_of_sequence(source);
        std::vector<std::unique_ptr<ArrowArray>> arrays;
        std::vector<cdp::Rejected> rejected;
        {
            std::optional<nb::gil_scoped_release> released;
            if (!payloads.needs_gil) released.emplace();
            std::lock_guard lock(mutex_);  // never held by who waits for the GIL
            cdp::Decoder decoder(*program_, limits_, registry_indexes_);
            size_t done = 0;
            do {
                const auto clean = [&] { program_->rows.clear(); };
                try {
                    done = decoder.run(payloads.list, done, stop_at_bad, rejected);
                    if (stop_at_bad && !rejected.empty()) {
                        clean();
                        break;
                    }
                    arrays.push_back(std::make_unique<ArrowArray>());
                    cdp::export_batch(*program_, *arrays.back());
                } catch (...) {
                    clean();
                    throw;
                }
            } while (done < payloads.list.size());
        }
        nb::list batches;
        for (auto& array : arrays) batches.append(Exported(std::move(array)));
        nb::list bad;
        for (const cdp::Rejected& one : rejected) {
            bad.append(nb::make_tuple(one.row, one.offset, one.reason));
        }
        return nb::make_tuple(batches, bad);
    }

    Exported encode(const nb::object& batch) {
        const nb::tuple pair = nb::cast<nb::tuple>(batch.attr("__arrow_c_array__")());
        const auto* source =
            static_cast<const ArrowArray*>(PyCapsule_GetPointer(pair[1].ptr(), "arrow_array"));
        if (source == nullptr) throw nb::python_error();
        auto array = std::make_unique<ArrowArray>();
        {
            nb::gil_scoped_release released;
            cdp::Encoder(*program_, *source).run(*array);
        }
        return Exported(std::move(array));
    }

  private:
    std::mutex mutex_;
    std::unique_ptr<cdp::Program> program_;
    const cdp::Limits limits_;
    const std::vector<std::string> registry_indexes_;
};

// The views (16 bytes each, of the Arrow binary_view layout with one data buffer) of the whole
// messages in `source`, how many bytes those took, and the reason where a length prefix is bad
// (else empty).
nb::tuple split_views(const nb::object& source, size_t max_message_bytes) {
    const cdp::HeldBuffer held(source);
    const uint8_t* begin = held.data();
    const uint8_t* end = begin + held.size();
    if (held.size() > INT32_MAX) throw nb::value_error("at most 2 GiB at a time");
    constexpr size_t kView = 16;
    constexpr size_t kFewest = 4096;
    cdp::Block views(kView * kFewest);
    size_t count = 0;
    std::string reason;
    const uint8_t* done = begin;
    {
        nb::gil_scoped_release released;
        while (done < end) {
            uint64_t size = 0;
            const uint8_t* body = cdp::read_varint(done, end, size);
            if (body == nullptr) {
                if (end - done >= cdp::kMaxVarintBytes) reason = "malformed length prefix";
                break;
            }
            if (size > max_message_bytes) {
                reason = "length prefix of " + std::to_string(size) +
                         " bytes is over the limit of " + std::to_string(max_message_bytes);
                break;
            }
            if (size > static_cast<uint64_t>(end - body)) break;
            if ((count + 1) * kView > views.size()) views.resize(2 * views.size());
            uint8_t* view = views.data() + kView * count++;
            const auto length = static_cast<int32_t>(size);
            std::memcpy(view, &length, 4);
            if (length <= 12) {
                std::memset(view + 4, 0, 12);
                std::memcpy(view + 4, body, static_cast<size_t>(length));
            } else {
                // The buffer's number is zero: there is one.
                const auto offset = static_cast<uint64_t>(body - begin) << 32;
                std::memcpy(view + 4, body, 4);
                std::memcpy(view + 8, &offset, 8);
            }
            done = body + size;
        }
    }
    views.resize(kView * count);
    return nb::make_tuple(std::move(views), done - begin, reason);
}

// The payloads of an array one behind the other, behind where each begins and the last one ends
// (int32), and the CRC-32C of all this behind bytes with the checksum `before`.
nb::tuple join_payloads(const nb::object& array, uint32_t before) {
    constexpr size_t kAtOnce = size_t{64} << 10;  // is still in the nearest caches
    const Payloads payloads = payloads_of_array(array);
    cdp::Block joined(0);
    {
        nb::gil_scoped_release released;
        size_t size = (payloads.list.size() + 1) * sizeof(int32_t);
        const size_t begin = size;
        for (const Payload& payload : payloads.list) size += payload.size;
        if (size - begin > INT32_MAX) throw nb::value_error("at most 2 GiB at a time");
        joined.resize(size);
        uint8_t* ends = joined.data();
        uint8_t* to = ends + begin;
        const auto put_end = [&] {
            const auto end = static_cast<int32_t>(to - joined.data() - begin);
            std::memcpy(ends, &end, sizeof end);
            ends += sizeof end;
        };
        for (const Payload& payload : payloads.list) {
            put_end();
            to += payload.size;
        }
        put_end();
        before = cdp::crc32c(joined.data(), begin, before);
        to = joined.data() + begin;
        const uint8_t* summed = to;
        for (const Payload& payload : payloads.list) {
            if (payload.size != 0) std::memcpy(to, payload.data, payload.size);
            to += payload.size;
            if (static_cast<size_t>(to - summed) < kAtOnce) continue;
            before = cdp::crc32c(summed, static_cast<size_t>(to - summed), before);
            summed = to;
        }
        before = cdp::crc32c(summed, static_cast<size_t>(to - summed), before);
    }
    return nb::make_tuple(std::move(joined), before);
}

}  // namespace

NB_MODULE(_native, module) {
    // What a script still holds when the interpreter ends is no fault that its user should read of.
    nb::set_leak_warnings(false);
    module.def(
        "limit_idle_memory", [](size_t bytes) { cdp::BufferPool::instance().limit(bytes); },
        nb::arg("bytes"));
    nb::class_<Exported>(module, "Exported").def_prop_ro("address", &Exported::address);
    nb::class_<Codec>(module, "Codec")
        .def(
            "__init__",
            [](Codec* self, const nb::object& program, const nb::object& schema, int max_depth,
               size_t max_message_bytes, size_t max_columns, const nb::list& registry_indexes) {
                std::vector<std::string> indexes;
                for (nb::handle one : registry_indexes) {
                    const auto bytes = nb::cast<nb::bytes>(one);
                    indexes.emplace_back(bytes.c_str(), bytes.size());
                }
                new (self) Codec(program, schema, {max_depth, max_message_bytes, max_columns},
                                 std::move(indexes));
            },
            nb::arg("program"), nb::arg("schema"), nb::arg("max_depth"),
            nb::arg("max_message_bytes"), nb::arg("max_columns"), nb::arg("registry_indexes"))
        .def("decode", &Codec::decode, nb::arg("payloads"), nb::arg("stop_at_bad"))
        .def("encode", &Codec::encode, nb::arg("batch"));
    nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
        try {
            std::rethrow_exception(thrown);
        } catch (const cdp::EncodeError& error) {
            PyErr_SetObject(PyExc_ValueError, nb::make_tuple(error.row, error.what()).ptr());
        }
    });
    module.def(
        "total_bytes",
        [](const nb::object& array) {
            int64_t total = 0;
            for (const Payload& payload : payloads_of_array(array).list) {
                total += static_cast<int64_t>(payload.size);
            }
            return total;
        },
        nb::arg("payloads"));
    module.def(
        "crc32c",
        [](const nb::object& data, uint32_t before) {
            const cdp::HeldBuffer held(data);
            nb::gil_scoped_release released;
            return cdp::crc32c(held.data(), held.size(), before);
        },
        nb::arg("data"), nb::arg("before") = 0);
    nb::class_<cdp::Block>(module, "Block", nb::type_slots(cdp::block_slots))
        .def(nb::init<size_t>(), nb::arg("size"));
    module.def("join_payloads", &join_payloads, nb::arg("payloads"), nb::arg("before"));
    module.def("split_views", &split_views, nb::arg("data"), nb::arg("max_message_bytes"));
    bind_parquet(module);
}
