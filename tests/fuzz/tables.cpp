#include "tables.h"

#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "decoder.h"

namespace fuzz {

// Reads what `Output` in tables.py writes: 64-bit integers, and bytes behind their length.
class Reader {
  public:
    explicit Reader(std::string data) : data_(std::move(data)) {}

    std::vector<Table> tables() {
        std::vector<Table> tables(static_cast<size_t>(integer()));
        for (Table& table : tables) {
            program(table.spec);
            table.schema = schema();
            table.program =
                cdp::Program::compile(table.spec, table.schema->arrow, cdp::Limits{}.max_columns);
            table.seeds.resize(static_cast<size_t>(integer()));
            for (std::string& seed : table.seeds) seed = text();
        }
        return tables;
    }

  private:
    const char* take(size_t size) {
        if (size > data_.size() - at_) throw std::runtime_error("the file of tables is cut off");
        at_ += size;
        return data_.data() + at_ - size;
    }
    int64_t integer() {
        int64_t value = 0;
        std::memcpy(&value, take(sizeof value), sizeof value);
        return value;
    }
    std::string text() {
        const auto size = static_cast<size_t>(integer());
        return {take(size), size};
    }

    void program(cdp::ProgramSpec& spec) {
        spec.message = text();
        spec.fields.resize(static_cast<size_t>(integer()));
        for (cdp::FieldSpec& one : spec.fields) field(one);
        spec.oneof_cases.resize(static_cast<size_t>(integer()));
        for (auto& [oneof, column] : spec.oneof_cases) {
            oneof = text();
            column = text();
        }
        spec.raw = text();
        spec.contents.resize(static_cast<size_t>(integer()));
        for (auto& content : spec.contents) content = inner_program();
    }

    void field(cdp::FieldSpec& spec) {
        spec.number = static_cast<uint32_t>(integer());
        spec.kind = text();
        spec.dropped = integer() != 0;
        spec.column = text();
        spec.presence = text();
        spec.encoding = text();
        spec.oneof = text();
        spec.name = text();
        if (integer() != 0) {
            auto names = std::make_shared<cdp::EnumSpec>();
            names->name = text();
            names->closed = integer() != 0;
            names->values.resize(static_cast<size_t>(integer()));
            for (auto& [number, name] : names->values) {
                number = static_cast<int32_t>(integer());
                name = text();
            }
            spec.enumeration = std::move(names);
        }
        if (integer() != 0) spec.program = inner_program();
    }

    std::shared_ptr<const cdp::ProgramSpec> inner_program() {
        auto inner = std::make_shared<cdp::ProgramSpec>();
        program(*inner);
        return inner;
    }

    std::unique_ptr<Schema> schema() {
        auto made = std::make_unique<Schema>();
        made->format = text();
        made->name = text();
        made->arrow.flags = integer();
        if (integer() != 0) {
            made->dictionary = schema();
            made->arrow.dictionary = &made->dictionary->arrow;
        }
        made->children.resize(static_cast<size_t>(integer()));
        for (auto& child : made->children) {
            child = schema();
            made->pointers_.push_back(&child->arrow);
        }
        made->arrow.format = made->format.c_str();
        made->arrow.name = made->name.c_str();
        made->arrow.n_children = static_cast<int64_t>(made->children.size());
        made->arrow.children = made->pointers_.data();
        return made;
    }

    std::string data_;
    size_t at_ = 0;
};

std::vector<Table> read_tables(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream content;
    if (!(content << file.rdbuf())) throw std::runtime_error("cannot read " + path);
    return Reader(content.str()).tables();
}

}  // namespace fuzz
