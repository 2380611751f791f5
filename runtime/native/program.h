// The decode program: what the generator wrote (`FieldSpec`, `ProgramSpec`), and what it is
// compiled to together with the table's Arrow schema (`Message`, `FieldOp`).
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrow_abi.h"
#include "columns.h"
#include "wire.h"

namespace cdp {

// A program and a schema that do not fit each other.
struct ProgramError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

struct EnumSpec {
    std::string name;
    std::vector<std::pair<int32_t, std::string>> values;
    bool closed = false;
};

struct ProgramSpec;

// cdp_runtime.program.Field, word for word.
struct FieldSpec {
    uint32_t number = 0;
    std::string kind;
    std::string column;
    bool dropped = false;
    std::string presence;
    std::string encoding;
    std::string oneof;
    std::string name;
    std::shared_ptr<const EnumSpec> enumeration;
    std::shared_ptr<const ProgramSpec> program;
};

// cdp_runtime.program.Program, word for word.
struct ProgramSpec {
    std::string message;
    std::vector<FieldSpec> fields;
    std::vector<std::pair<std::string, std::string>> oneof_cases;
    std::string raw;
    std::vector<std::shared_ptr<const ProgramSpec>> contents;
};

enum class Wire : uint8_t { Varint = 0, Fixed64 = 1, Length = 2, Start = 3, End = 4, Fixed32 = 5 };

// How the value on the wire is read and stored: one step of the interpreter in decoder.cpp.
enum class Op : uint8_t {
    Varint32,
    Varint64,
    ZigZag32,
    ZigZag64,
    Bool,
    Fixed32,
    Fixed64,
    WideFloat,  // a float into a column of doubles
    EnumNumber,
    EnumIndex,
    EnumText,
    UnixTime,
    Utf8,  // into a column with 32-bit offsets, as Bytes
    Bytes,
    LargeUtf8,
    LargeBytes,
    LossyUtf8,
    FixedBytes,
    Decimal,
    Hex,
    Base64,
    Base32,
    Message,
    Group,
    Map,
    Flatten,
    Wrapper,
    Timestamp,
    Duration,
    Date,
    TimeOfDay,
    Json,
    Serialized,
    Skip,
};

enum class Scalar : uint8_t {  // of a field that is a number on the wire
    None,
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    Enum,
};

enum class JsonKind : uint8_t { Struct, Value, List };

struct Message;

struct alignas(64) FieldOp {
    // The bytes of the tag as they come on the wire, to be compared with the next four at once. A
    // tag of five bytes has no mask and never compares equal.
    uint32_t tag_bytes = 1;
    uint32_t tag_mask = 0;
    uint8_t tag_size = 0;
    Op op = Op::Skip;
    // What comes before the value: a new item of the column's list; its oneof's other members go;
    static constexpr uint8_t kPushes = 1;
    static constexpr uint8_t kEnters = 2;
    static constexpr uint8_t kSeen = 4;      // or that it is there, for the end of its message;
    static constexpr uint8_t kNests = 8;     // or another message of the same loop,
    static constexpr uint8_t kAttends = 16;  // whose beginning and end are looked after.
    uint8_t extras = 0;
    bool seen = false;
    FieldOp* guess = nullptr;  // what came behind this field last time
    Column* value = nullptr;   // where values go: the column, or the list's item
    Column* column = nullptr;  // of the field; for a repeated one the list
    Oneof* oneof = nullptr;
    Message* message = nullptr;
    Message* owner = nullptr;  // the message that the field is of

    uint32_t tag = 0;  // number << 3 | wire type
    uint32_t number = 0;
    Scalar scalar = Scalar::None;
    Wire wire = Wire::Varint;
    bool repeated = false;
    bool packed = false;    // how the encoder writes a repeated field
    bool implicit = false;  // a zero is not written
    bool required = false;
    bool utf8 = false;    // a string, of which protobuf asks that it be UTF-8
    bool closed = false;  // an enum whose unknown numbers are unknown fields
    JsonKind json = JsonKind::Struct;
    int32_t scale = 0;      // of a decimal
    int32_t precision = 0;  // of a decimal
    int64_t unit = 1;       // of a timestamp, duration: ticks a second
    int64_t tick = 1;       // nanoseconds of one
    std::shared_ptr<const EnumNames> names;
    std::string label;  // "field name (number)", for errors
    std::vector<std::pair<const uint8_t*, size_t>>
        entries;  // of a map: those of the row under construction

    // Whether its tag is at `p`, where four bytes may be read.
    bool is_at(const uint8_t* p) const { return (load<uint32_t>(p) & tag_mask) == tag_bytes; }
};

// One message of the program: its fields by number, and the column that is its struct (if it has
// one).
struct Message {
    std::string name;
    std::vector<std::unique_ptr<FieldOp>> fields;  // by number
    std::vector<FieldOp*> dense;                   // by number, for the small numbers
    std::vector<FieldOp*> closing;                 // those that the message's end looks after
    std::vector<FieldOp*> touched;  // flattened: present with the message, so zero and not null
    std::vector<Column*> columns;   // flattened: all columns
    std::vector<std::unique_ptr<Oneof>> oneofs;
    FieldOp start;  // stands before the first field, and matches no tag

    FieldOp* find(uint32_t number) const {
        if (number < dense.size()) return dense[number];
        return find_sparse(number);
    }
    // Before the fields of a message are read.
    void begin() {
        for (FieldOp* field : closing) field->seen = false;
    }
    // Orders the fields, and makes the tables that find them.
    void index();

  private:
    FieldOp* find_sparse(uint32_t number) const;
};

// A compiled program: the tree of messages, the tree of columns, and the domains that own the rows.
struct Program {
    Batch batch;
    Domain rows;
    Column root;  // the struct that is the record batch
    Column* raw = nullptr;
    int32_t column_count = 1;  // the root is the first
    Message* message = nullptr;
    std::vector<std::unique_ptr<Message>> messages;

    // `schema` is that of a struct (a record batch). Throws ProgramError.
    static std::unique_ptr<Program> compile(const ProgramSpec& spec, const ArrowSchema& schema,
                                            size_t max_columns);
};

}  // namespace cdp
