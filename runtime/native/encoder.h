// Columns back into wire bytes: the decode program run the other way.
//
// Rows are written from the last to the first and from the end of the buffer to its start, so that
// the length in front of a sub-message is known when it is written.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "backward_writer.h"
#include "program.h"

namespace cdp {

// A value that no message of the program can hold.
struct EncodeError : std::runtime_error {
    EncodeError(int64_t at_row, const std::string& reason)
        : std::runtime_error(reason), row(at_row) {}
    int64_t row;
};

class Encoder {
  public:
    // `batch` is a struct array of the program's schema. Throws EncodeError on a value out of
    // range.
    Encoder(const Program& program, const ArrowArray& batch);

    // All rows as one binary array, whose memory `out` owns.
    void run(ArrowArray& out);

  private:
    // One column of the batch; its buffers begin at the array's first row, but bits, which count
    // from `offset`.
    struct View {
        const uint8_t* validity = nullptr;
        const uint8_t* values = nullptr;
        const void* offsets = nullptr;
        int64_t offset = 0;
        bool wide = false;                  // 64-bit offsets
        std::vector<int64_t> enum_numbers;  // by dictionary index; kNoNumber where it names none

        bool is_valid(int64_t row) const {
            const int64_t at = row + offset;
            return validity == nullptr || ((validity[at >> 3] >> (at & 7)) & 1) != 0;
        }
        int64_t offset_at(int64_t row) const {
            return wide ? static_cast<const int64_t*>(offsets)[row]
                        : static_cast<const int32_t*>(offsets)[row];
        }
    };

    // One field, bound to the columns of this batch.
    struct Step {
        View view;  // of the value; of a repeated field's items
        uint64_t tag_bytes = 0;
        uint32_t tag_size = 0;
        Op op = Op::Skip;
        bool skip_zero = false;
        bool repeated = false;
        const FieldOp* field = nullptr;
        const View* list = nullptr;         // of a repeated field
        int64_t child_offset = 0;           // of the rows of a struct's children
        std::vector<Step> parts;            // of a message, from its last field to its first
        std::vector<const View*> presence;  // flattened: the columns of which one must be there
    };

    void view_columns(const Column& column, const ArrowArray& array);
    const View& view(const Column& column) const {
        return views_[static_cast<size_t>(column.index)];
    }
    std::vector<Step> bind(const Message& message, bool always) const;

    void message(const std::vector<Step>& steps, int64_t row);
    void items(const Step& step, int64_t row);
    void packed(const Step& step, int64_t begin, int64_t end);
    // Writes the value, tag included, unless it is the default of a field without presence.
    void value(const Step& step, int64_t row);
    void zero(const Step& step);
    void sub_message(const Step& step, int64_t row);
    void text(const Step& step, const uint8_t* bytes, size_t size);
    void converted_text(const Step& step, int64_t row);
    void unix_time(const Step& step, int64_t value);
    uint32_t float_at(const Step& step, int64_t row);
    void well_known(const Step& step, int64_t row);
    void small_integers(std::initializer_list<int64_t> values);
    uint64_t enum_number(const Step& step, int64_t row) const;
    std::string_view text_at(const Step& step, int64_t row) const;
    void tag(const Step& step) { out_.tag(step.tag_bytes, step.tag_size); }
    [[noreturn]] void fail(const Step& step, const std::string& what) const;

    const Program& program_;
    const ArrowArray& batch_;
    std::vector<View> views_;
    std::vector<Step> steps_;
    BackwardWriter out_;
    size_t expected_bytes_ = 0;
    int64_t row_ = 0;  // of the batch, for errors
    std::string scratch_;
};

}  // namespace cdp
