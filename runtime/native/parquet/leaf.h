// What a column of a Parquet file is: its place in the Arrow schema, its types there and here, and
// what has been found out about its values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../arrow_abi.h"
#include "statistics.h"

namespace cdp::parquet {

// The numbers are those of parquet.thrift.
enum class Physical : uint8_t {
    Boolean = 0,
    Int32 = 1,
    Int64 = 2,
    Float = 4,
    Double = 5,
    ByteArray = 6,
    FixedLenByteArray = 7,
};
enum class Encoding : uint8_t {
    Plain = 0,
    Rle = 3,
    DeltaLengthByteArray = 6,
    RleDictionary = 8,
};

// How Arrow has the values.
enum class Source : uint8_t {
    Bits,
    Four,     // bytes each, as they are written
    Eight,    //
    Seconds,  // of which Parquet knows none: written as milliseconds
    Text32,   // with offsets of 32 bits
    Text64,
    Fixed,    // bytes of one length
    Decimal,  // the lowest byte first; written with the highest first, and no more than needed
    Names,    // 32-bit indexes into texts
};

// One step on the way from the record batch to a leaf.
struct Node {
    enum class Kind : uint8_t { Struct, List32, List64, Leaf };
    Kind kind = Kind::Leaf;
    bool nullable = false;
    size_t child = 0;  // the next step, among the children of this one
    uint16_t def = 0;  // the definition level where this is null; one more where it is there
    uint16_t rep = 0;  // of a list: the repetition level of all items but the first
};

struct Leaf {
    std::vector<std::string> names;  // in the Parquet schema
    size_t column = 0;               // among those of the record batch
    std::vector<Node> path;          // from that column to the leaf
    Source source = Source::Four;
    Physical physical = Physical::Int32;
    size_t width = 0;   // of a value in Arrow, bytes
    size_t length = 0;  // of a FixedLenByteArray
    Order order = Order::None;
    uint16_t max_def = 0;
    uint16_t max_rep = 0;
    bool bloom_filter = false;

    // Found out with the first page that is full, and true for all files of a writer.
    enum class Choice : uint8_t { Open, Dictionary, Plain };
    Choice choice = Choice::Open;
    bool is_long = false;  // values that nobody compares, and that have no statistics
    // Places in the dictionary are written in whole bytes, in which the codec finds more; found out
    // with the first pages.
    bool whole_bytes = false;
    int trials_of_bytes = 0;
    // Whether the fast level of the codec does as well as the one that was asked for.
    enum class Level : uint8_t { Open, Fast, Usual };
    Level level = Level::Open;             // of data pages
    Level dictionary_level = Level::Open;  // of dictionary pages

    std::string name() const;  // for errors
};

// The leaves of a schema (that of a struct), in the order of Parquet. Throws std::invalid_argument
// where there is no way to write a type.
std::vector<Leaf> leaves_of(const ArrowSchema& schema);

}  // namespace cdp::parquet
