#include "column_chunk.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "hybrid.h"

namespace cdp::parquet {

namespace {

// Of a page: an index of pages can tell rows apart, and the codec still sees enough of a long
// column to find what repeats. With the rows that it ends with a page has mostly less than 4 MB,
// from where on blocks of the pool are larger by an eighth.
constexpr int64_t kPageRows = int64_t{1} << 16;
constexpr size_t kPageBytes = size_t{15} << 18;
// What is looked at between two looks at the size of the page.
constexpr int64_t kSlice = 1024;

// With fewer values than the one a page tells nothing, and with fewer than the other nothing of
// those to come; one that has all its rows, most of them without a value, tells sooner.
constexpr int64_t kTelling = 4096;
constexpr int64_t kTellingForGood = 4 * kTelling;
constexpr int64_t kTellingOfWhole = 256;
// Columns with fewer different values than the one, as a part of all, get a dictionary without a
// trial, and those with more than the other get none.
constexpr double kFewValues = 0.2;
constexpr double kManyValues = 0.85;
// What a body needs to tell which level of the codec does for its column, and what the fast one may
// cost.
constexpr size_t kTellingBytes = size_t{64} << 10;
constexpr double kFastCosts = 1.01;
// Texts and bytes that are longer than this on average have no statistics: nobody asks for the
// smallest document, and comparing them takes time.
constexpr int64_t kLongValue = 64;

constexpr uint32_t kNoName = UINT32_MAX;

// The end of the run of equal bits that begins at `from`.
int64_t run_end(const uint8_t* bits, int64_t from, int64_t end) {
    const bool value = ((bits[from >> 3] >> (from & 7)) & 1) != 0;
    const uint8_t whole = value ? 0xFF : 0;
    int64_t at = from + 1;
    while (at < end) {
        if ((at & 7) == 0 && at + 8 <= end && bits[at >> 3] == whole) {
            at += 8;
        } else if ((((bits[at >> 3] >> (at & 7)) & 1) != 0) == value) {
            ++at;
        } else {
            break;
        }
    }
    return at;
}

const uint8_t* validity_of(const ArrowArray& array) {
    if (array.null_count == 0 || array.n_buffers == 0) return nullptr;
    return static_cast<const uint8_t*>(array.buffers[0]);
}

template <typename T>
const T* buffer_of(const ArrowArray& array, int64_t at = 1) {
    return static_cast<const T*>(array.buffers[at]);
}

std::string_view name_at(const ArrowArray& names, int64_t at) {
    const auto* offsets = buffer_of<int32_t>(names) + names.offset + at;
    return {buffer_of<char>(names, 2) + offsets[0], static_cast<size_t>(offsets[1] - offsets[0])};
}

std::string_view text_of(const uint8_t* value, size_t size) {
    return {reinterpret_cast<const char*>(value), size};
}

std::invalid_argument unexpected_null(const Leaf& leaf) {
    return std::invalid_argument("column " + leaf.name() + " has a null where its schema has none");
}

uint64_t xxhash64(std::string_view value) {
    return cdp::parquet::xxhash64(reinterpret_cast<const uint8_t*>(value.data()), value.size());
}

bool is_number(const Leaf& leaf) {
    return leaf.source == Source::Four || leaf.source == Source::Eight ||
           leaf.source == Source::Seconds;
}

int in_whole_bytes(int bits) { return (bits + 7) / 8 * 8; }

// A decimal of 16 bytes with the highest byte first.
void reverse16(const uint8_t* from, uint8_t* to) {
    const uint64_t low = __builtin_bswap64(load<uint64_t>(from));
    const uint64_t high = __builtin_bswap64(load<uint64_t>(from + 8));
    std::memcpy(to, &high, sizeof high);
    std::memcpy(to + 8, &low, sizeof low);
}

}  // namespace

ColumnChunk::ColumnChunk(Leaf& leaf, const Codec& codec)
    : leaf_(leaf),
      codec_(codec),
      arrays_(leaf.path.size()),
      range_(BytesRange(leaf.order)),
      texts_(leaf.physical == Physical::ByteArray) {
    if (!is_number(leaf)) return;
    const bool is_unsigned = leaf.order == Order::Unsigned;
    if (leaf.physical == Physical::Float) {
        range_ = NumberRange<float>();
    } else if (leaf.physical == Physical::Double) {
        range_ = NumberRange<double>();
    } else if (leaf.physical == Physical::Int32 && is_unsigned) {
        range_ = NumberRange<uint32_t>();
    } else if (leaf.physical == Physical::Int32) {
        range_ = NumberRange<int32_t>();
    } else if (is_unsigned) {
        range_ = NumberRange<uint64_t>();
    } else {
        range_ = NumberRange<int64_t>();
    }
}

void ColumnChunk::append(const ArrowArray& array, int64_t begin, int64_t rows) {
    if (pages_.empty() && rows_ == 0) {
        indexing_ = leaf_.choice != Leaf::Choice::Plain && leaf_.source != Source::Bits;
        ranging_ = !leaf_.is_long;
    }
    take(array, begin, rows);
    note_size();
}

void ColumnChunk::take(const ArrowArray& array, int64_t begin, int64_t rows) {
    const ArrowArray* at = &array;
    for (size_t step = 0; step < leaf_.path.size(); ++step) {
        arrays_[step] = at;
        if (leaf_.path[step].kind != Node::Kind::Leaf) at = at->children[leaf_.path[step].child];
    }
    if (leaf_.source == Source::Names) {
        const ArrowArray& names = *arrays_.back()->dictionary;
        names_.assign(static_cast<size_t>(names.length), kNoName);
        if (names.length != 0) first_name_ = name_at(names, 0);
    }
    const int64_t slice = std::max<int64_t>(
        std::min(kSlice, static_cast<int64_t>(kPageBytes) * rows / (batch_bytes() + 1)), 1);
    for (const int64_t end = begin + rows; begin < end;) {
        const int64_t stop = std::min({end, begin + slice, begin + kPageRows - rows_});
        visit(0, begin, stop, 0, 0);
        rows_ += stop - begin;
        begin = stop;
        const size_t known = indexing_ ? entries().size() : 0;
        const bool open = leaf_.choice == Leaf::Choice::Open;
        const bool first = open && all_values_ == 0;
        if (rows_ >= kPageRows || page_bytes() >= kPageBytes || (first && known >= kPageBytes)) {
            cut_page();
        } else if (known >= 2 * kDictionaryBytes) {
            cut_page();
            indexing_ = false;
        }
    }
}

// Of all values of the batch at hand.
int64_t ColumnChunk::batch_bytes() const {
    const ArrowArray& array = *arrays_.back();
    const auto bytes = [&](const auto* offsets) -> int64_t {
        return offsets[array.offset + array.length] - offsets[array.offset];
    };
    if (leaf_.source == Source::Text32) return bytes(buffer_of<int32_t>(array));
    if (leaf_.source == Source::Text64) return bytes(buffer_of<int64_t>(array));
    return array.length * static_cast<int64_t>(leaf_.width);
}

// Elements of one step of the path: `first` is the repetition level of the first one, `rep` that of
// the others (Dremel's levels, https://parquet.apache.org/docs/file-format/nestedencoding/).
void ColumnChunk::visit(size_t step, int64_t begin, int64_t end, uint16_t first, uint16_t rep) {
    const ArrowArray& array = *arrays_[step];
    const uint8_t* valid = validity_of(array);
    if (valid == nullptr) return visit_present(step, begin, end, first, rep);
    if (leaf_.path[step].kind == Node::Kind::Leaf && leaf_.source != Source::Bits) {
        return visit_leaf(array, valid, begin + array.offset, end + array.offset, first, rep);
    }
    for (int64_t at = begin; at < end; first = rep) {
        const int64_t here = at + array.offset;
        const int64_t stop = run_end(valid, here, end + array.offset) - array.offset;
        if (((valid[here >> 3] >> (here & 7)) & 1) != 0) {
            visit_present(step, at, stop, first, rep);
        } else if (leaf_.path[step].nullable) {
            add_nulls(stop - at, leaf_.path[step].def, first, rep);
        } else {
            throw unexpected_null(leaf_);
        }
        at = stop;
    }
}

// Elements of which some are null, in any order: those that are there are moved together.
void ColumnChunk::visit_leaf(const ArrowArray& array, const uint8_t* valid, int64_t begin,
                             int64_t end, uint16_t first, uint16_t rep) {
    const Node& node = leaf_.path.back();
    const auto is_there = [&](int64_t at) { return (valid[at >> 3] >> (at & 7)) & 1; };
    add_levels(end - begin, node.def, first, rep);
    int64_t there = 0;
    if (node.nullable) {
        uint16_t* defs = defs_.data() + defs_.size() - (end - begin);
        for (int64_t at = begin; at < end; ++at) {
            defs[at - begin] = static_cast<uint16_t>(node.def + is_there(at));
            there += is_there(at);
        }
    } else {
        for (int64_t at = begin; at < end; ++at) there += is_there(at);
        if (there != end - begin) throw unexpected_null(leaf_);
    }
    nulls_ += end - begin - there;
    if (there == end - begin) return add_values(array, begin, there);
    if (there == 0) return;
    if (leaf_.source == Source::Text32 || leaf_.source == Source::Text64) {
        values_ += there;
        const auto* data = buffer_of<char>(array, 2);
        size_t size = 0;
        const auto gather = [&](const auto* offsets) {
            for (int64_t at = begin; at < end; ++at) {
                if (!is_there(at)) continue;
                values_at_once_[size++] = {data + offsets[at],
                                           static_cast<size_t>(offsets[at + 1] - offsets[at])};
                if (size < values_at_once_.size()) continue;
                add_bytes(values_at_once_);
                size = 0;
            }
        };
        if (leaf_.source == Source::Text32) {
            gather(buffer_of<int32_t>(array));
        } else {
            gather(buffer_of<int64_t>(array));
        }
        return add_bytes(std::span(values_at_once_).first(size));
    }
    const size_t width = leaf_.source == Source::Names ? sizeof(int32_t) : leaf_.width;
    const size_t need = static_cast<size_t>(end - begin) * width;
    if (packed_.size() < need) packed_.resize(need);
    const auto pack = [&](auto size) {
        const uint8_t* from = buffer_of<uint8_t>(array) + static_cast<size_t>(begin) * size;
        uint8_t* to = packed_.data();
        for (int64_t at = begin; at < end; ++at, from += size) {
            std::memcpy(to, from, size);
            to += is_there(at) ? static_cast<size_t>(size) : 0;
        }
    };
    switch (width) {
        case 4:
            pack(std::integral_constant<size_t, 4>{});
            break;
        case 8:
            pack(std::integral_constant<size_t, 8>{});
            break;
        case 16:
            pack(std::integral_constant<size_t, 16>{});
            break;
        default:
            pack(width);
    }
    std::array<const void*, 2> buffers{nullptr, packed_.data()};
    ArrowArray packed{};
    packed.buffers = buffers.data();
    packed.dictionary = array.dictionary;
    add_values(packed, 0, there);
}

void ColumnChunk::visit_present(size_t step, int64_t begin, int64_t end, uint16_t first,
                                uint16_t rep) {
    const Node& node = leaf_.path[step];
    const ArrowArray& array = *arrays_[step];
    const auto def = static_cast<uint16_t>(node.def + (node.nullable ? 1 : 0));
    switch (node.kind) {
        case Node::Kind::Leaf:
            add_levels(end - begin, def, first, rep);
            add_values(array, begin + array.offset, end - begin);
            break;
        case Node::Kind::Struct:
            visit(step + 1, begin + array.offset, end + array.offset, first, rep);
            break;
        case Node::Kind::List32:
        case Node::Kind::List64:
            for (int64_t at = begin + array.offset; at < end + array.offset; ++at, first = rep) {
                const bool wide = node.kind == Node::Kind::List64;
                const int64_t from =
                    wide ? buffer_of<int64_t>(array)[at] : buffer_of<int32_t>(array)[at];
                const int64_t to =
                    wide ? buffer_of<int64_t>(array)[at + 1] : buffer_of<int32_t>(array)[at + 1];
                if (from == to) {
                    add_nulls(1, def, first, rep);
                } else {
                    visit(step + 1, from, to, first, node.rep);
                }
            }
            break;
    }
}

void ColumnChunk::add_levels(int64_t count, uint16_t def, uint16_t first, uint16_t rep) {
    if (leaf_.max_def != 0) defs_.fill(static_cast<size_t>(count), def);
    if (leaf_.max_rep != 0 && count != 0) {
        reps_.push(first);
        reps_.fill(static_cast<size_t>(count - 1), rep);
    }
}

void ColumnChunk::add_nulls(int64_t count, uint16_t def, uint16_t first, uint16_t rep) {
    add_levels(count, def, first, rep);
    nulls_ += count;
}

void ColumnChunk::add_values(const ArrowArray& array, int64_t from, int64_t count) {
    values_ += count;
    switch (leaf_.source) {
        case Source::Bits: {
            const auto* bits = buffer_of<uint8_t>(array);
            uint8_t* to = plain_.room(static_cast<size_t>(count));
            for (int64_t i = 0; i < count; ++i) {
                to[i] = (bits[(from + i) >> 3] >> ((from + i) & 7)) & 1;
            }
            plain_.resize(plain_.size() + static_cast<size_t>(count));
            break;
        }
        case Source::Four:
            add_numbers(buffer_of<uint32_t>(array) + from, count);
            break;
        case Source::Eight:
            add_numbers(buffer_of<uint64_t>(array) + from, count);
            break;
        case Source::Seconds: {
            const size_t need = static_cast<size_t>(count) * sizeof(int64_t);
            if (scratch_.size() < need) scratch_.resize(need);
            auto* millis = reinterpret_cast<uint64_t*>(scratch_.data());
            for (int64_t i = 0; i < count; ++i)
                millis[i] = buffer_of<uint64_t>(array)[from + i] * 1000;
            add_numbers(millis, count);
            break;
        }
        case Source::Text32:
            add_texts<int32_t>(array, from, count);
            break;
        case Source::Text64:
            add_texts<int64_t>(array, from, count);
            break;
        case Source::Fixed:
            add_fixed(buffer_of<uint8_t>(array) + static_cast<size_t>(from) * leaf_.width, count);
            break;
        case Source::Decimal:
            add_decimals(buffer_of<uint8_t>(array) + static_cast<size_t>(from) * leaf_.width,
                         count);
            break;
        case Source::Names:
            add_names(array, from, count);
            break;
    }
}

template <typename T>
void ColumnChunk::add_numbers(const T* values, int64_t count) {
    std::visit(
        [&]<typename R>(R& range) {
            if constexpr (requires { typename R::Number; }) {
                using Number = typename R::Number;
                if constexpr (sizeof(Number) == sizeof(T)) {
                    range.add(reinterpret_cast<const Number*>(values), count);
                }
            }
        },
        range_);
    const auto size = static_cast<size_t>(count);
    if (!indexing_) {
        plain_.append(values, size * sizeof(T));
        if (leaf_.bloom_filter) {
            for (size_t i = 0; i < size; ++i) {
                hashes_.push(xxhash64(reinterpret_cast<const uint8_t*>(values + i), sizeof(T)));
            }
        }
        return;
    }
    uint32_t* to = indexes_.room(size);
    const auto find_all = [&](auto& dictionary) {
        for (size_t i = 0; i < size; ++i) to[i] = dictionary.find(values[i]);
    };
    if constexpr (sizeof(T) == sizeof(uint32_t)) {
        find_all(fours_);
    } else {
        find_all(eights_);
    }
    indexes_.grow(size);
}

template <typename Offset>
void ColumnChunk::add_texts(const ArrowArray& array, int64_t begin, int64_t count) {
    const auto* offsets = buffer_of<Offset>(array) + begin;
    const auto* data = buffer_of<char>(array, 2);
    if (count == 0) return;
    const auto bytes = offsets[count] - offsets[0];
    if (bytes > Offset{INT32_MAX}) {
        throw std::invalid_argument("column " + leaf_.name() + " has 2 GiB in few rows");
    }
    text_bytes_ += static_cast<size_t>(bytes);
    for (int64_t at = 0; at < count;) {
        size_t size = 0;
        for (; at < count && size < values_at_once_.size(); ++at, ++size) {
            values_at_once_[size] = {data + offsets[at],
                                     static_cast<size_t>(offsets[at + 1] - offsets[at])};
        }
        add_bytes(std::span(values_at_once_).first(size));
    }
}

void ColumnChunk::add_fixed(const uint8_t* value, int64_t count) {
    while (count > 0) {
        size_t size = 0;
        for (; count > 0 && size < values_at_once_.size(); --count, ++size) {
            values_at_once_[size] = text_of(value, leaf_.length);
            value += leaf_.length;
        }
        add_bytes(std::span(values_at_once_).first(size));
    }
}

void ColumnChunk::add_decimals(const uint8_t* value, int64_t count) {
    const size_t need = static_cast<size_t>(count) * leaf_.length;
    if (scratch_.size() < need) scratch_.resize(need);
    uint8_t* to = scratch_.data();
    std::array<uint8_t, 32> whole;
    for (int64_t i = 0; i < count; ++i, value += leaf_.width, to += leaf_.length) {
        if (leaf_.width < 16) std::reverse_copy(value, value + leaf_.width, whole.data());
        for (size_t part = 0; part + 16 <= leaf_.width; part += 16) {
            reverse16(value + leaf_.width - 16 - part, whole.data() + part);
        }
        std::memcpy(to, whole.data() + leaf_.width - leaf_.length, leaf_.length);
    }
    add_fixed(scratch_.data(), count);
}

// Up to `BytesDictionary::kAtOnce` values.
void ColumnChunk::add_bytes(std::span<const std::string_view> values) {
    auto& range = std::get<BytesRange>(range_);
    if (!indexing_) {
        const size_t prefix = leaf_.physical == Physical::ByteArray ? sizeof(uint32_t) : 0;
        size_t bytes = prefix * values.size();
        for (const std::string_view value : values) bytes += value.size();
        uint8_t* to = plain_.room(bytes);
        for (const std::string_view value : values) {
            const auto size = static_cast<uint32_t>(value.size());
            std::memcpy(to, &size, prefix);
            if (size != 0) std::memcpy(to + prefix, value.data(), size);
            to += prefix + size;
        }
        plain_.resize(plain_.size() + bytes);
        for (size_t i = 0; leaf_.bloom_filter && i < values.size(); ++i) {
            hashes_.push(xxhash64(values[i]));
        }
        for (size_t i = 0; ranging_ && i < values.size(); ++i) range.add(values[i]);
        return;
    }
    // A value is mostly looked up once where it stands in several rows, one after the other.
    auto& different = different_at_once_;
    std::array<uint32_t, BytesDictionary::kAtOnce> places;
    std::array<uint8_t, BytesDictionary::kAtOnce> which;
    size_t count = 0;
    for (size_t i = 0; i < values.size(); ++i) {
        if (count == 0 || values[i] != different[count - 1]) different[count++] = values[i];
        which[i] = static_cast<uint8_t>(count - 1);
    }
    texts_.find(std::span(different).first(count), places.data());
    uint32_t* to = indexes_.room(values.size());
    for (size_t i = 0; i < values.size(); ++i) to[i] = places[which[i]];
    indexes_.grow(values.size());
    if (!ranging_) return;
    for (size_t i = 0; i < count; ++i) {
        if (is_new_in_page(places[i])) range.add(different[i]);
    }
}

// Whether the page has not had an entry yet, as far as that is known.
bool ColumnChunk::is_new_in_page(uint32_t place) {
    constexpr size_t kSmall = 4096;
    if (place >= kSmall) return true;
    if (place >= seen_.size()) seen_.resize(place + 1);
    const auto page = static_cast<uint32_t>(pages_.size() + 1);
    return std::exchange(seen_[place], page) != page;
}

void ColumnChunk::add_names(const ArrowArray& array, int64_t begin, int64_t count) {
    const auto* indexes = buffer_of<int32_t>(array) + begin;
    auto& range = std::get<BytesRange>(range_);
    uint32_t* to = indexes_.room(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
        uint32_t& known = names_.at(static_cast<size_t>(indexes[i]));
        const std::string_view name = name_at(*array.dictionary, indexes[i]);
        if (known == kNoName) known = texts_.find(name);
        if (is_new_in_page(known)) range.add(name);
        to[i] = known;
    }
    indexes_.grow(static_cast<size_t>(count));
}

void ColumnChunk::finish() {
    if (rows_ != 0) cut_page();
    // Readers that keep names as places in their dictionary take one for what is null, too.
    if (leaf_.source == Source::Names && entry_count() == 0) texts_.find(first_name_);
    const size_t count = entry_count();
    if (count == 0) return;
    if (leaf_.bloom_filter) hash_entries();
    // What repeated in the first page need not have done so later; names have a dictionary anyway.
    const bool many = leaf_.source != Source::Names &&
                      static_cast<double>(count) > kManyValues * static_cast<double>(all_values_);
    if (many && leaf_.choice == Leaf::Choice::Dictionary) leaf_.choice = Leaf::Choice::Open;
    dictionary_page_ = std::make_shared<Page>();
    dictionary_page_->is_dictionary = true;
    dictionary_page_->values = static_cast<int64_t>(count);
    dictionary_page_->body_size = static_cast<int64_t>(entries().size());
    dictionary_page_->body = with_dictionary(*this, [](auto& one) { return one.take_entries(); });
    dictionary_page_->is_fast = is_fast(dictionary_page_->body, leaf_.dictionary_level);
    drop_dictionary();
    note_size();
}

void ColumnChunk::note_size() {
    held_.store(page_bytes() + 4 * seen_.size() + 8 * hashes_.size() +
                    with_dictionary(*this, [](auto& one) { return one.held(); }),
                std::memory_order_relaxed);
    is_full_.store(entries().size() >= kDictionaryBytes || text_bytes_ >= kTextBytes,
                   std::memory_order_relaxed);
}

std::vector<std::shared_ptr<Page>> ColumnChunk::take_pages() {
    std::vector<std::shared_ptr<Page>> given(pages_.begin() + static_cast<ptrdiff_t>(given_),
                                             pages_.end());
    given_ = pages_.size();
    if (dictionary_page_) given.push_back(dictionary_page_);
    return given;
}

// Looks at the first page, and decides whether a dictionary pays: for good where the page is whole,
// for itself where the row group ends with it.
void ColumnChunk::choose() {
    const size_t known = entries().size();
    const bool large = page_bytes() >= kPageBytes || known >= kPageBytes;
    const bool whole = rows_ >= kPageRows || large;
    if (values_ < (whole ? kTellingOfWhole : kTelling) && !large) return;
    const size_t count = entry_count();
    if (leaf_.physical == Physical::ByteArray) {
        leaf_.is_long = known > (kLongValue + sizeof(uint32_t)) * count;
        ranging_ = ranging_ && !leaf_.is_long;
    }
    const double part =
        static_cast<double>(count) / static_cast<double>(std::max<int64_t>(values_, 1));
    bool pays = part <= kManyValues;
    if (pays && part > kFewValues) {
        // As wide as those of the pages to come, for which the dictionary grows.
        const int growth = whole ? 4 : 0;
        const int width = bits_for(count) + growth;
        const size_t with =
            codec_.size_of(entries().span(), false) +
            std::min(size_of_indexes(width), size_of_indexes(in_whole_bytes(width)));
        spell_out();
        pays = with <= codec_.size_of(plain_.span(), false);
        plain_.clear();
    }
    if (large || values_ >= (whole ? kTelling : kTellingForGood)) {
        leaf_.choice = pays ? Leaf::Choice::Dictionary : Leaf::Choice::Plain;
    }
    if (pays) return;
    spell_out();
    if (leaf_.bloom_filter) hash_entries();
    indexes_.clear();
    drop_dictionary();
    indexing_ = false;
}

void ColumnChunk::cut_page() {
    if (all_values_ == 0 && indexing_ && leaf_.choice == Leaf::Choice::Open) choose();
    auto page = std::make_shared<Page>();
    page->rows = rows_;
    page->values = values_ + nulls_;
    page->nulls = nulls_;
    if (leaf_.source == Source::Bits) {
        const auto* values = plain_.data();
        for (const char bit : {'\0', '\1'}) {
            if (std::find(values, values + plain_.size(), bit) == values + plain_.size()) continue;
            std::get<BytesRange>(range_).add({&bit, 1});
        }
    }
    page->range = std::visit([](auto& range) { return range.take(); }, range_);
    // the choice is that of all open files, and another may have made it since the page began
    if (!ranging_) page->range = {};
    ranging_ = !leaf_.is_long;

    Bytes& body = page->body;
    const auto levels = [&](const Numbers<uint16_t>& all, uint16_t most) {
        if (most == 0) return;
        const size_t at = body.size();
        body.push(uint32_t{0});
        append_hybrid(all.span(), bits_for(most), body);
        const auto size = static_cast<uint32_t>(body.size() - at - sizeof(uint32_t));
        std::memcpy(body.data() + at, &size, sizeof size);
    };
    levels(reps_, leaf_.max_rep);
    levels(defs_, leaf_.max_def);
    if (leaf_.source == Source::Bits) {
        append_bits(plain_.span(), body);
    } else if (indexes_.size() != 0 || leaf_.source == Source::Names) {
        // names also where there are none: pyarrow takes no other encoding before the dictionary's
        // within a message (https://github.com/apache/arrow/issues/32723)
        page->encoding = Encoding::RleDictionary;
        append_indexes(body);
    } else if (leaf_.physical == Physical::ByteArray && append_of_one_length(body)) {
        page->encoding = Encoding::DeltaLengthByteArray;
    } else if (body.empty()) {
        std::swap(body, plain_);
        plain_.room(body.size());  // the next page is about as large
    } else {
        body.append(plain_.data(), plain_.size());
    }
    page->body_size = static_cast<int64_t>(body.size());
    page->is_fast = is_fast(body, leaf_.level);
    if (body.size() > INT32_MAX) {
        throw std::invalid_argument("column " + leaf_.name() + " has a page of over 2 GiB");
    }
    pages_.push_back(std::move(page));

    all_values_ += values_;
    rows_ = values_ = nulls_ = 0;
    defs_.clear();
    reps_.clear();
    plain_.clear();
    indexes_.clear();
}

// Writes the values of the open page as they would stand without the dictionary.
void ColumnChunk::spell_out() {
    const Bytes& known = entries();
    if (leaf_.physical == Physical::ByteArray) {
        std::vector<size_t> starts;
        starts.reserve(entry_count());
        for (size_t at = 0; at < known.size();
             at += sizeof(uint32_t) + load<uint32_t>(known.data() + at)) {
            starts.push_back(at);
        }
        for (const uint32_t index : indexes_.span()) {
            const uint8_t* entry = known.data() + starts[index];
            plain_.append(entry, sizeof(uint32_t) + load<uint32_t>(entry));
        }
    } else {
        const size_t size = entry_size();
        for (const uint32_t index : indexes_.span())
            plain_.append(known.data() + index * size, size);
    }
}

void ColumnChunk::drop_dictionary() {
    fours_.drop();
    eights_.drop();
    texts_.drop();
    seen_.clear();
}

size_t ColumnChunk::size_of_indexes(int width) const {
    Bytes indexes;
    append_hybrid(indexes_.span(), width, indexes);
    return codec_.size_of(indexes.span(), false);
}

void ColumnChunk::append_indexes(Bytes& out) {
    int width = std::max(bits_for(std::max<size_t>(entry_count(), 1) - 1), 1);
    const int whole = in_whole_bytes(width);
    // The first page of a chunk has more new values than those to come, so that it is not enough.
    if (whole != width && leaf_.trials_of_bytes < 2 && indexes_.size() >= kTelling) {
        ++leaf_.trials_of_bytes;
        leaf_.whole_bytes = size_of_indexes(whole) < size_of_indexes(width);
    }
    if (leaf_.whole_bytes) width = whole;
    out.push(static_cast<uint8_t>(width));
    append_hybrid(indexes_.span(), width, out);
}

// The plain texts of the page without the length before each, where all have the same (those of
// identifiers do, and the codec makes them a twentieth smaller without); else false. Lengths that
// differ are better between the texts.
// https://github.com/apache/parquet-format/blob/master/Encodings.md#delta-length-byte-array-delta_length_byte_array--6
bool ColumnChunk::append_of_one_length(Bytes& out) const {
    constexpr int64_t kBlock = 128;
    constexpr uint8_t kMiniblocks = 4;
    if (values_ == 0) return false;
    const auto length = load<uint32_t>(plain_.data());
    const size_t step = sizeof length + length;
    if (plain_.size() != step * static_cast<size_t>(values_)) return false;
    const uint8_t* end = plain_.data() + plain_.size();
    for (const uint8_t* at = plain_.data(); at < end; at += step) {
        if (load<uint32_t>(at) != length) return false;
    }
    out.push_varint(kBlock);
    out.push_varint(kMiniblocks);
    out.push_varint(static_cast<uint64_t>(values_));
    out.push_varint(zigzag64(length));
    // Of each block the smallest difference, and how many bits those of its miniblocks have more.
    for (int64_t at = 1; at < values_; at += kBlock) {
        out.push(uint8_t{0});
        out.push(std::array<uint8_t, kMiniblocks>{});
    }
    uint8_t* to = out.room(static_cast<size_t>(values_) * length);
    for (const uint8_t* at = plain_.data(); at < end; at += step, to += length) {
        if (length != 0) std::memcpy(to, at + sizeof length, length);
    }
    out.resize(out.size() + static_cast<size_t>(values_) * length);
    return true;
}

bool ColumnChunk::is_fast(const Bytes& body, Leaf::Level& level) {
    if (level == Leaf::Level::Open && body.size() >= kTellingBytes) {
        const auto sample = body.span().first(std::min(body.size(), 16 * kTellingBytes));
        const bool does =
            codec_.has_fast && static_cast<double>(codec_.size_of(sample, true)) <=
                                   kFastCosts * static_cast<double>(codec_.size_of(sample, false));
        level = does ? Leaf::Level::Fast : Leaf::Level::Usual;
    }
    return level == Leaf::Level::Fast;
}

void ColumnChunk::hash_entries() {
    const bool prefixed = leaf_.physical == Physical::ByteArray;
    const uint8_t* entry = entries().data();
    for (size_t i = 0; i < entry_count(); ++i) {
        const size_t size = prefixed ? load<uint32_t>(entry) : entry_size();
        if (prefixed) entry += sizeof(uint32_t);
        hashes_.push(xxhash64(entry, size));
        entry += size;
    }
}

}  // namespace cdp::parquet
