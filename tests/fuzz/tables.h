// The tables that the fuzzer runs: what tests/fuzz/tables.py wrote of the generated modules.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "program.h"

namespace fuzz {

// An Arrow schema that owns itself, in the form that the core takes.
struct Schema {
    std::string format;
    std::string name;
    std::vector<std::unique_ptr<Schema>> children;
    std::unique_ptr<Schema> dictionary;
    ArrowSchema arrow{};

    bool nullable() const { return (arrow.flags & ARROW_FLAG_NULLABLE) != 0; }

  private:
    friend class Reader;
    std::vector<ArrowSchema*> pointers_;
};

struct Table {
    cdp::ProgramSpec spec;
    std::unique_ptr<Schema> schema;
    std::unique_ptr<cdp::Program> program;  // the one of all runs, as a converter keeps it
    std::vector<std::string> seeds;         // messages to begin with
};

// Throws std::runtime_error where the file cannot be read.
std::vector<Table> read_tables(const std::string& path);

}  // namespace fuzz
