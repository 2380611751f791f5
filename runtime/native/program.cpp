#include "program.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string_view>

namespace cdp {

namespace {

struct ScalarKind {
    std::string_view kind;
    Scalar scalar;
    Op op;
    Wire wire;
};

constexpr std::array kScalars{
    ScalarKind{"double", Scalar::Double, Op::Fixed64, Wire::Fixed64},
    ScalarKind{"float", Scalar::Float, Op::Fixed32, Wire::Fixed32},
    ScalarKind{"int32", Scalar::Int32, Op::Varint32, Wire::Varint},
    ScalarKind{"int64", Scalar::Int64, Op::Varint64, Wire::Varint},
    ScalarKind{"uint32", Scalar::Uint32, Op::Varint32, Wire::Varint},
    ScalarKind{"uint64", Scalar::Uint64, Op::Varint64, Wire::Varint},
    ScalarKind{"sint32", Scalar::Sint32, Op::ZigZag32, Wire::Varint},
    ScalarKind{"sint64", Scalar::Sint64, Op::ZigZag64, Wire::Varint},
    ScalarKind{"fixed32", Scalar::Fixed32, Op::Fixed32, Wire::Fixed32},
    ScalarKind{"fixed64", Scalar::Fixed64, Op::Fixed64, Wire::Fixed64},
    ScalarKind{"sfixed32", Scalar::Sfixed32, Op::Fixed32, Wire::Fixed32},
    ScalarKind{"sfixed64", Scalar::Sfixed64, Op::Fixed64, Wire::Fixed64},
    ScalarKind{"bool", Scalar::Bool, Op::Bool, Wire::Varint},
    ScalarKind{"enum", Scalar::Enum, Op::EnumNumber, Wire::Varint},
};

struct NamedOp {
    std::string_view name;
    Op op;
};

constexpr std::array kLengthKinds{
    NamedOp{"string", Op::Utf8},         NamedOp{"bytes", Op::Bytes},
    NamedOp{"message", Op::Message},     NamedOp{"map", Op::Map},
    NamedOp{"timestamp", Op::Timestamp}, NamedOp{"duration", Op::Duration},
    NamedOp{"wrapper", Op::Wrapper},     NamedOp{"json", Op::Json},
    NamedOp{"date", Op::Date},           NamedOp{"time_of_day", Op::TimeOfDay},
};

constexpr std::array kEncodings{
    NamedOp{"decimal", Op::Decimal},      NamedOp{"hex", Op::Hex},
    NamedOp{"base64", Op::Base64},        NamedOp{"base32", Op::Base32},
    NamedOp{"unix_s", Op::UnixTime},      NamedOp{"unix_ms", Op::UnixTime},
    NamedOp{"unix_us", Op::UnixTime},     NamedOp{"serialized", Op::Serialized},
    NamedOp{"lossy_utf8", Op::LossyUtf8}, NamedOp{"flatten", Op::Flatten},
};

constexpr size_t kDenseNumbers = 256;

class Compiler {
  public:
    explicit Compiler(Program& program) : program_(program) {}

    void run(const ProgramSpec& spec, const ArrowSchema& schema, size_t max_columns) {
        Column& root = program_.root;
        root.layout = Layout::Struct;
        root.domain = &program_.rows;
        root.name = spec.message;
        program_.rows.batch = &program_.batch;
        add_children(root, schema, spec.message);
        const auto columns = static_cast<size_t>(program_.column_count - 1);
        if (columns > max_columns) {
            fail(spec.message, std::to_string(columns) +
                                   " columns, those inside of others too, are over the limit of " +
                                   std::to_string(max_columns));
        }
        if (!spec.raw.empty()) {
            program_.raw = &child(root, spec.raw, spec.message);
            require(program_.raw, Layout::Text32, spec.message + "." + spec.raw);
        }
        for (const auto& content : spec.contents) contents_[content->message] = {content.get()};
        program_.message = compile_message(spec, root);
    }

  private:
    struct Content {
        const ProgramSpec* spec = nullptr;
        Message* message = nullptr;  // once a field has asked for it
    };

    [[noreturn]] static void fail(const std::string& where, const std::string& what) {
        throw ProgramError(where + ": " + what);
    }

    static Column& child(Column& parent, const std::string& name, const std::string& where) {
        for (auto& column : parent.children) {
            if (column->name == name) return *column;
        }
        fail(where, "the schema has no column '" + name + "'");
    }

    static void require(const Column* column, Layout layout, const std::string& where) {
        const bool same = column->layout == layout ||
                          (layout == Layout::Text32 && column->layout == Layout::Text64);
        if (!same)
            fail(where, "the program does not fit a column of format '" + column->format + "'");
    }

    void add_children(Column& parent, const ArrowSchema& schema, const std::string& where) {
        for (int64_t i = 0; i < schema.n_children; ++i) {
            parent.children.push_back(make_column(*schema.children[i], *parent.domain, where));
        }
    }

    std::unique_ptr<Column> make_column(const ArrowSchema& schema, Domain& domain,
                                        const std::string& parent) {
        auto column = std::make_unique<Column>();
        column->name = schema.name == nullptr ? "" : schema.name;
        column->format = schema.format;
        column->nullable = (schema.flags & ARROW_FLAG_NULLABLE) != 0;
        column->domain = &domain;
        column->index = program_.column_count++;
        domain.columns.push_back(column.get());
        const std::string where = parent + "." + column->name;
        const std::string_view format = column->format;
        if (schema.dictionary != nullptr) {
            if (format != "i" || std::string_view(schema.dictionary->format) != "u") {
                fail(where, "a dictionary column must be dictionary<int32, utf8>");
            }
            column->dictionary = true;
            column->width = 4;
        } else if (format == "b") {
            column->layout = Layout::Bit;
        } else if (format == "u" || format == "z") {
            column->layout = Layout::Text32;
        } else if (format == "U" || format == "Z") {
            column->layout = Layout::Text64;
        } else if (format == "+s") {
            column->layout = Layout::Struct;
            add_children(*column, schema, where);
        } else if (format == "+l" || format == "+L" || format == "+m") {
            column->layout = format == "+L" ? Layout::List64 : Layout::List32;
            column->items = std::make_unique<Domain>();
            column->items->batch = &program_.batch;
            column->children.push_back(make_column(*schema.children[0], *column->items, where));
            Column& item = *column->children.front();
            item.always_set = item.layout == Layout::Fixed && !item.nullable;
        } else {
            column->width = width_of(format, where);
        }
        return column;
    }

    static int32_t width_of(std::string_view format, const std::string& where) {
        if (format == "i" || format == "I" || format == "f" || format == "tdD") return 4;
        if (format == "l" || format == "L" || format == "g" || format.starts_with("ts") ||
            format.starts_with("tD") || format == "ttu" || format == "ttn") {
            return 8;
        }
        if (format.starts_with("w:")) return std::atoi(format.data() + 2);
        if (format.starts_with("d:")) return format.ends_with(",256") ? 32 : 16;
        fail(where, "columns of format '" + std::string(format) + "' are not supported");
    }

    static int64_t ticks(std::string_view format, const std::string& where) {
        if (format.starts_with("ts") || format.starts_with("tD")) {
            switch (format.size() > 2 ? format[2] : '?') {
                case 's':
                    return 1;
                case 'm':
                    return 1'000;
                case 'u':
                    return 1'000'000;
                case 'n':
                    return 1'000'000'000;
                default:
                    break;
            }
        }
        if (format == "ttu") return 1'000'000;
        if (format == "ttn") return 1'000'000'000;
        fail(where, "the column's format '" + std::string(format) + "' has no unit of time");
    }

    Message* new_message(const std::string& name) {
        program_.messages.push_back(std::make_unique<Message>());
        program_.messages.back()->name = name;
        return program_.messages.back().get();
    }

    // `owner` is the struct that holds the columns of the message's fields.
    Message* compile_message(const ProgramSpec& spec, Column& owner) {
        Message* message = new_message(spec.message);
        enclosing_.emplace_back(spec.message, message);
        std::map<std::string, Oneof*> oneofs;
        for (const auto& [oneof, column] : spec.oneof_cases) {
            add_oneof(*message, oneofs, oneof, owner)->case_column =
                &child(owner, column, spec.message);
        }
        for (const FieldSpec& field : spec.fields) {
            auto op = std::make_unique<FieldOp>();
            const std::string where = spec.message + "." + field.column;
            if (!field.oneof.empty()) op->oneof = add_oneof(*message, oneofs, field.oneof, owner);
            compile_field(*op, field, owner, where);
            message->fields.push_back(std::move(op));
        }
        for (const auto& [oneof, column] : spec.oneof_cases)
            add_case_names(spec, oneof, *oneofs[oneof]);
        message->index();
        enclosing_.pop_back();
        return message;
    }

    static JsonKind json_kind(const ProgramSpec& program) {
        return program.message.ends_with(".Struct")      ? JsonKind::Struct
               : program.message.ends_with(".ListValue") ? JsonKind::List
                                                         : JsonKind::Value;
    }

    // What a message that is kept as its bytes is checked with: its own fields, or by its name
    // those of the table's contents, or one of those around it, which recurs.
    Message* find_content(const ProgramSpec& spec, const std::string& where) {
        const ProgramSpec* content = &spec;
        Content* known = nullptr;
        if (spec.fields.empty()) {
            if (const auto found = contents_.find(spec.message); found != contents_.end()) {
                known = &found->second;
                if (known->message != nullptr) return known->message;
                content = known->spec;
            } else {
                for (const auto& [name, message] : enclosing_) {
                    if (name == spec.message) return message;
                }
            }
        }
        Message* message = new_message(spec.message);
        if (known != nullptr) known->message = message;
        enclosing_.emplace_back(spec.message, message);
        for (const FieldSpec& field : content->fields) {
            auto op = std::make_unique<FieldOp>();
            op->number = field.number;
            op->label = (field.name.empty() ? "in " + spec.message : field.name) + " (" +
                        std::to_string(field.number) + ")";
            choose_op(*op, field, where);
            if (op->op == Op::Json) {
                op->json = json_kind(*field.program);
            } else if (field.program) {
                op->message = find_content(*field.program, where);
            }
            message->fields.push_back(std::move(op));
        }
        message->index();
        enclosing_.pop_back();
        return message;
    }

    static Oneof* add_oneof(Message& message, std::map<std::string, Oneof*>& oneofs,
                            const std::string& name, Column& owner) {
        Oneof*& oneof = oneofs[name];
        if (oneof == nullptr) {
            message.oneofs.push_back(std::make_unique<Oneof>());
            oneof = message.oneofs.back().get();
            oneof->name = name;
            owner.oneofs.push_back(oneof);
        }
        return oneof;
    }

    // A case column is an enum of the members' names by their field numbers.
    static void add_case_names(const ProgramSpec& spec, const std::string& name, Oneof& oneof) {
        auto names = std::make_shared<EnumNames>();
        for (const FieldSpec& field : spec.fields) {
            if (field.oneof != name) continue;
            names->numbers.push_back(static_cast<int32_t>(field.number));
            names->names.push_back(field.name.empty() ? field.column : field.name);
        }
        names->index();
        oneof.case_column->names = std::move(names);
    }

    void compile_field(FieldOp& op, const FieldSpec& field, Column& owner,
                       const std::string& where) {
        if (field.number == 0 || field.number > 536'870'911) fail(where, "no such field number");
        op.number = field.number;
        const std::string name = field.column.empty() ? field.name : field.column;
        op.label =
            (name.empty() ? "in " + owner.name : name) + " (" + std::to_string(field.number) + ")";
        choose_op(op, field, where);
        op.value = &owner;  // of fields without a column: never looked at
        if (field.dropped) {
            op.op = Op::Skip;
            return;
        }
        if (op.op == Op::Flatten) {
            op.message = compile_message(*field.program, owner);
            for (const auto& inner : op.message->fields) {
                if (inner->op == Op::Flatten) {
                    const std::vector<Column*>& nested = inner->message->columns;
                    op.message->columns.insert(op.message->columns.end(), nested.begin(),
                                               nested.end());
                }
                if (inner->column == nullptr) continue;
                op.message->columns.push_back(inner->column);
                // Of a text that is a fixed-size column the empty one is null there.
                const bool null_when_empty =
                    inner->value->layout == Layout::Fixed && inner->wire == Wire::Length;
                if (inner->repeated || (inner->implicit && !null_when_empty))
                    op.message->touched.push_back(inner.get());
            }
            return;
        }
        op.column = &child(owner, field.column, where);
        op.value = op.column;
        if (op.repeated) {
            if (op.column->layout != Layout::List32 && op.column->layout != Layout::List64) {
                fail(where, "a repeated field needs a list or map column");
            }
            op.value = op.column->children.front().get();
            op.extras |= FieldOp::kPushes;
        }
        bind(op, field, where);
    }

    static void set_tag(FieldOp& op) {
        op.tag = (op.number << 3) | static_cast<uint32_t>(op.wire);
        uint8_t bytes[8] = {};
        size_t size = 0;
        for (uint32_t rest = op.tag; rest != 0 || size == 0; rest >>= 7) {
            bytes[size++] = static_cast<uint8_t>(rest >= 0x80 ? rest | 0x80 : rest);
        }
        if (size > sizeof op.tag_bytes) return;
        op.tag_size = static_cast<uint8_t>(size);
        std::memcpy(&op.tag_bytes, bytes, sizeof op.tag_bytes);
        op.tag_mask = size == 4 ? UINT32_MAX : (1u << (8 * size)) - 1;
    }

    static void choose_op(FieldOp& op, const FieldSpec& field, const std::string& where) {
        op.packed = field.presence == "packed";
        op.repeated = op.packed || field.presence == "repeated";
        op.implicit = field.presence == "implicit";
        op.required = field.presence == "required";
        op.utf8 = field.kind == "string" && field.encoding != "lossy_utf8";
        find_op(op, field, where);
        set_tag(op);
    }

    static void find_op(FieldOp& op, const FieldSpec& field, const std::string& where) {
        if (field.kind == "group") {
            op.op = field.encoding == "serialized" ? Op::Serialized
                    : field.encoding == "flatten"  ? Op::Flatten
                                                   : Op::Group;
            op.wire = Wire::Start;
            return;
        }
        const auto scalar = std::ranges::find(kScalars, field.kind, &ScalarKind::kind);
        if (scalar != kScalars.end()) {
            op.op = scalar->op;
            op.scalar = scalar->scalar;
            op.wire = scalar->wire;
        } else {
            const auto kind = std::ranges::find(kLengthKinds, field.kind, &NamedOp::name);
            if (kind == kLengthKinds.end()) fail(where, "unknown kind '" + field.kind + "'");
            op.op = kind->op;
            op.wire = Wire::Length;
        }
        if (!field.encoding.empty()) {
            const auto encoding = std::ranges::find(kEncodings, field.encoding, &NamedOp::name);
            if (encoding == kEncodings.end()) {
                fail(where, "unknown encoding '" + field.encoding + "'");
            }
            op.op = encoding->op;
        }
    }

    // Checks that the column can hold what the step stores, and takes what the step needs of its
    // type.
    void bind(FieldOp& op, const FieldSpec& field, const std::string& where) {
        Column& value = *op.value;
        const std::string_view format = value.format;
        const auto want_width = [&](int32_t width) {
            if (value.layout != Layout::Fixed || value.width != width || value.dictionary) {
                fail(where, "the program does not fit a column of format '" + value.format + "'");
            }
        };
        switch (op.op) {
            case Op::Varint32:
            case Op::ZigZag32:
                want_width(4);
                break;
            case Op::Fixed32:
                if (op.scalar == Scalar::Float && format == "g") {
                    op.op = Op::WideFloat;
                } else {
                    want_width(4);
                }
                break;
            case Op::Varint64:
            case Op::ZigZag64:
            case Op::Fixed64:
                want_width(8);
                break;
            case Op::Bool:
                require(&value, Layout::Bit, where);
                break;
            case Op::EnumNumber:
                bind_enum(op, field, where);
                break;
            case Op::UnixTime:
                if (op.scalar == Scalar::None) fail(where, "a Unix time must be an integer field");
                want_width(8);
                op.unit = ticks(format, where);
                break;
            case Op::Utf8:
            case Op::LossyUtf8:
            case Op::Bytes:
                if (format.starts_with("w:") && op.op == Op::Bytes) {
                    op.op = Op::FixedBytes;
                } else {
                    require(&value, Layout::Text32, where);
                }
                if (value.layout == Layout::Text64 && op.op == Op::Utf8) op.op = Op::LargeUtf8;
                if (value.layout == Layout::Text64 && op.op == Op::Bytes) op.op = Op::LargeBytes;
                break;
            case Op::Hex:
            case Op::Base64:
            case Op::Base32:
                if (!format.starts_with("w:")) require(&value, Layout::Text32, where);
                break;
            case Op::Decimal:
                if (!format.starts_with("d:")) fail(where, "a decimal needs a decimal column");
                op.precision = std::atoi(value.format.c_str() + 2);
                op.scale = std::atoi(value.format.c_str() + value.format.find(',') + 1);
                break;
            case Op::Message:
            case Op::Group:
                require(&value, Layout::Struct, where);
                op.message = compile_message(*field.program, value);
                break;
            case Op::Map:
                require(&value, Layout::Struct, where);
                op.message = compile_message(*field.program, value);
                if (op.message->fields.size() != 2 || value.children.size() != 2) {
                    fail(where, "a map entry has a key and a value");
                }
                expect_value(*op.message);
                break;
            case Op::Wrapper: {
                Message* inner = new_message(field.program->message);
                auto inner_op = std::make_unique<FieldOp>();
                const FieldSpec& inner_field = field.program->fields.at(0);
                inner_op->number = inner_field.number;
                inner_op->label = op.label;
                choose_op(*inner_op, inner_field, where);
                inner_op->implicit = true;
                inner_op->column = inner_op->value = &value;
                bind(*inner_op, inner_field, where);
                inner->fields.push_back(std::move(inner_op));
                inner->index();
                op.message = inner;
                break;
            }
            case Op::Timestamp:
            case Op::Duration:
            case Op::TimeOfDay:
                want_width(8);
                op.unit = ticks(format, where);
                op.tick = 1'000'000'000 / op.unit;
                break;
            case Op::Date:
                want_width(4);
                break;
            case Op::Json:
                require(&value, Layout::Text32, where);
                op.json = json_kind(*field.program);
                break;
            case Op::Serialized:
                require(&value, Layout::Text32, where);
                if (field.program) op.message = find_content(*field.program, where);
                break;
            case Op::EnumIndex:
            case Op::EnumText:
            case Op::WideFloat:
            case Op::FixedBytes:
            case Op::LargeUtf8:
            case Op::LargeBytes:
            case Op::Flatten:
            case Op::Skip:
                break;
        }
    }

    // An entry without a value has an empty message, or a zero, as its value: what is not null as
    // it is need not be told.
    static void expect_value(Message& entry) {
        FieldOp& value = *entry.fields[1];
        const bool is_message = value.wire == Wire::Length && value.scalar == Scalar::None &&
                                !value.utf8 && value.op != Op::Bytes && value.op != Op::LargeBytes;
        if (!is_message && (!value.value->nullable || value.op == Op::EnumText)) return;
        value.extras |= FieldOp::kSeen;
        entry.closing.push_back(&value);
    }

    void bind_enum(FieldOp& op, const FieldSpec& field, const std::string& where) {
        Column& value = *op.value;
        if (field.enumeration) {
            auto names = std::make_shared<EnumNames>();
            names->name = field.enumeration->name;
            names->closed = field.enumeration->closed;
            for (const auto& [number, name] : field.enumeration->values) {
                if (std::ranges::find(names->numbers, number) != names->numbers.end()) continue;
                names->numbers.push_back(number);
                names->names.push_back(name);
            }
            names->index();
            op.closed = names->closed;
            op.names = names;
            value.names = names;
        }
        if (value.dictionary) {
            op.op = Op::EnumIndex;
        } else if (value.layout == Layout::Text32 || value.layout == Layout::Text64) {
            op.op = Op::EnumText;
        } else if (value.layout != Layout::Fixed || value.width != 4) {
            fail(where, "an enum needs a dictionary, utf8 or int32 column");
        }
        if (op.op != Op::EnumNumber && !op.names) fail(where, "the program names no enum");
    }

    Program& program_;
    std::vector<std::pair<std::string, Message*>> enclosing_;
    std::map<std::string, Content> contents_;
};

}  // namespace

void Message::index() {
    std::ranges::sort(fields, {}, [](const auto& field) { return field->number; });
    size_t size = 0;
    for (const auto& field : fields) {
        if (field->number < kDenseNumbers) size = field->number + 1;
    }
    dense.assign(size, nullptr);
    for (size_t i = 0; i < fields.size(); ++i) {
        FieldOp& field = *fields[i];
        if (i != 0 && fields[i - 1]->number == field.number) {
            throw ProgramError(name + ": field number " + std::to_string(field.number) +
                               " is given twice");
        }
        if (field.number < size) dense[field.number] = &field;
        field.guess = fields[(i + 1) % fields.size()].get();
        field.owner = this;
    }
    start.owner = this;
    start.guess = fields.empty() ? &start : fields.front().get();
    for (const auto& field : fields) {
        // A closed enum enters its oneof only with a number that it knows.
        if (field->oneof != nullptr && !field->closed) field->extras |= FieldOp::kEnters;
        if (field->op == Op::Skip) continue;
        if (field->required) field->extras |= FieldOp::kSeen;
        if (field->op == Op::Message || field->op == Op::Map) {
            field->extras |= FieldOp::kNests;
            const bool attends = field->op == Op::Map || !field->message->closing.empty();
            if (attends) field->extras |= FieldOp::kAttends;
        }
        const bool named = field->op == Op::EnumText && field->implicit && !field->repeated;
        if (field->op == Op::Map || field->required || named) closing.push_back(field.get());
    }
}

FieldOp* Message::find_sparse(uint32_t number) const {
    const auto it = std::ranges::lower_bound(fields, number, {},
                                             [](const auto& field) { return field->number; });
    return it != fields.end() && (*it)->number == number ? it->get() : nullptr;
}

std::unique_ptr<Program> Program::compile(const ProgramSpec& spec, const ArrowSchema& schema,
                                          size_t max_columns) {
    auto program = std::make_unique<Program>();
    Compiler(*program).run(spec, schema, max_columns);
    return program;
}

}  // namespace cdp
