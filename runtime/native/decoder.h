// Wire bytes into columns: the interpreter of the decode program.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "program.h"

namespace cdp {

struct Limits {
    int max_depth = 100;                   // nesting of messages, as protobuf counts it
    size_t max_message_bytes = INT32_MAX;  // of one payload
    size_t max_columns = 10'000;           // of a table, those inside of others too
};

// One payload; `data` is null for a null entry.
struct Payload {
    const uint8_t* data = nullptr;
    size_t size = 0;
    const uint8_t* limit = nullptr;  // up to where memory may be read: at least its own end
};

// A payload that is no valid message.
struct Rejected {
    int64_t row = 0;
    int64_t offset = 0;  // where in the payload decoding stopped
    std::string reason;
};

class Decoder {
  public:
    // `registry_indexes`: payloads begin with the prefix of Confluent's Schema Registry (a zero
    // byte, the id of a schema, message indexes), whose encoded indexes shall be one of these.
    Decoder(Program& program, Limits limits, std::span<const std::string> registry_indexes = {})
        : program_(program), limits_(limits), registry_indexes_(registry_indexes) {}

    // Decodes payloads from `first` on into the program's columns, until all are done, one is bad
    // and `stop_at_bad`, or the batch can take no more. Returns the index behind the last payload
    // done.
    size_t run(std::span<const Payload> payloads, size_t first, bool stop_at_bad,
               std::vector<Rejected>& rejected);

  private:
    // Each step returns where the next field starts, or null after `fail`.
    const uint8_t* message(Message& outermost, int64_t row, const uint8_t* p, const uint8_t* end,
                           uint32_t group);
    [[gnu::always_inline]] inline const uint8_t* step(FieldOp& op, Column& column, int64_t row,
                                                      const uint8_t* p, const uint8_t* end);
    [[gnu::always_inline]] inline const uint8_t* begin_message(FieldOp& op, Column& column,
                                                               int64_t row, const uint8_t* p,
                                                               const uint8_t* end,
                                                               const uint8_t*& stop);
    const uint8_t* enumeration(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                               const uint8_t* end);
    const uint8_t* unix_time(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                             const uint8_t* end);
    const uint8_t* timestamp(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                             const uint8_t* end);
    const uint8_t* packed(FieldOp& op, int64_t row, const uint8_t* p, const uint8_t* end);
    const uint8_t* text(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                        const uint8_t* end);
    const uint8_t* sub_message(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                               const uint8_t* end);
    void begin_entry(FieldOp& op, int64_t item, const uint8_t* p, const uint8_t* end);
    static void end_entry(FieldOp& op, int64_t item);
    const uint8_t* well_known(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                              const uint8_t* end);
    const uint8_t* skip(uint32_t tag, const uint8_t* p, const uint8_t* end, int depth);
    const uint8_t* check(const Message* message, const uint8_t* p, const uint8_t* end,
                         uint32_t group, int depth);
    bool check_content(const FieldOp& op, const uint8_t* p, const uint8_t* end, int depth);
    bool small_integers(const uint8_t* p, const uint8_t* end, std::span<int64_t> values);

    const uint8_t* behind_prefix(const uint8_t* p, const uint8_t* end);
    bool close_all(Message& message, int64_t row);
    bool close(FieldOp& op, int64_t row);
    static void put_enum_text(const FieldOp& op, Column& column, int64_t row, int32_t number);
    bool drop_repeated_keys(FieldOp& op, int64_t row);
    void enter_oneof(FieldOp& op, int64_t row);
    void unrepresentable(Column& column, int64_t row) {
        column.reset_row(row);
        needs_raw_ = true;
    }
    [[gnu::cold]] const uint8_t* no_value(const FieldOp& op, const uint8_t* end);
    [[gnu::cold]] const uint8_t* fail(const uint8_t* at, const char* reason,
                                      const FieldOp* op = nullptr) {
        if (reason_ == nullptr) {
            at_ = at;
            reason_ = reason;
            op_ = op;
        }
        return nullptr;
    }

    Program& program_;
    const Limits limits_;
    const std::span<const std::string> registry_indexes_;
    const std::string too_deep_ =
        "messages nested deeper than the limit of " + std::to_string(limits_.max_depth);
    const std::string too_large_ = "the message is larger than the limit of " +
                                   std::to_string(limits_.max_message_bytes) + " bytes";

    // Of the message being decoded.
    const uint8_t* limit_ = nullptr;  // the end of what may be read
    const uint8_t* safe_ = nullptr;   // up to where eight bytes may be read
    int depth_ = 0;                   // levels still allowed
    bool needs_raw_ = false;
    bool drop_item_ = false;  // the map entry holds an unknown value of a closed enum
    const uint8_t* at_ = nullptr;
    const char* reason_ = nullptr;
    const FieldOp* op_ = nullptr;
    std::string scratch_;
};

}  // namespace cdp
