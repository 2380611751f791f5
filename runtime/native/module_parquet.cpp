// The part of cdp_runtime._native that writes Parquet; cdp_runtime.parquet_file is its one user and
// holds its documentation.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <tuple>

#include "held_buffer.h"
#include "parquet/file.h"

namespace nb = nanobind;

namespace {

using namespace cdp::parquet;

// What pyarrow says of a leaf: path, physical type (its number), length, definition and repetition
// levels.
using Described = std::tuple<std::string, int, size_t, int, int>;

Described describe(const Leaf& leaf) {
    return {leaf.name(), static_cast<int>(leaf.physical), leaf.length, leaf.max_def, leaf.max_rep};
}

// One whose crew may be waiting for the interpreter when it goes.
struct BoundLayout : Layout {
    using Layout::Layout;
    ~BoundLayout() {
        nb::gil_scoped_release released;
        crew.end();
    }
};

// What `compress`, which takes an address, a size and whether to be fast, is to the core.
Codec codec_of(int number, bool has_fast, nb::object compress) {
    Codec codec;
    codec.number = number;
    codec.has_fast = has_fast;
    codec.compress = [compress = std::move(compress)](std::span<const uint8_t> body, bool fast,
                                                      const auto& take) {
        if (!nb::is_alive()) throw std::runtime_error("the interpreter is ending");
        nb::gil_scoped_acquire acquired;
        const nb::object made =
            compress(reinterpret_cast<uintptr_t>(body.data()), body.size(), fast);
        const cdp::HeldBuffer held(made);
        nb::gil_scoped_release released;
        take(held.span());
    };
    return codec;
}

std::unique_ptr<BoundLayout> layout_of(const nb::object& exporter, const nb::bytes& schema,
                                       const std::vector<Described>& described, int codec,
                                       bool has_fast, nb::object compress,
                                       std::vector<int32_t> sort_by,
                                       const std::vector<size_t>& bloom_filters, size_t threads,
                                       size_t ahead) {
    const nb::object keep = exporter.attr("__arrow_c_schema__")();
    const auto* arrow =
        static_cast<const ArrowSchema*>(PyCapsule_GetPointer(keep.ptr(), "arrow_schema"));
    if (arrow == nullptr) throw nb::python_error();
    auto layout = std::make_unique<BoundLayout>(leaves_of(*arrow), threads);
    layout->schema.assign(schema.c_str(), schema.size());
    layout->codec = codec_of(codec, has_fast, std::move(compress));
    layout->sort_by = std::move(sort_by);
    layout->ahead = ahead;
    for (const size_t leaf : bloom_filters) layout->leaves.at(leaf).bloom_filter = true;
    for (size_t i = 0; i < layout->leaves.size(); ++i) {
        const Leaf& leaf = layout->leaves[i];
        if (i < described.size() && describe(leaf) == described[i]) continue;
        throw nb::value_error(
            ("pyarrow maps column " + leaf.name() + " to Parquet in another way").c_str());
    }
    return layout;
}

void append(File& file, const nb::object& batch, size_t size) {
    const nb::tuple pair = nb::cast<nb::tuple>(batch.attr("__arrow_c_array__")());
    auto* array = static_cast<ArrowArray*>(PyCapsule_GetPointer(pair[1].ptr(), "arrow_array"));
    if (array == nullptr) throw nb::python_error();
    const ArrowArray taken = *array;
    array->release = nullptr;  // it is the file's now
    nb::gil_scoped_release released;
    file.append(taken, size);
}

}  // namespace

void bind_parquet(nb::module_& module) {
    nb::class_<BoundLayout>(module, "ParquetLayout")
        .def(nb::new_(&layout_of), nb::arg("schema"), nb::arg("encoded"), nb::arg("leaves"),
             nb::arg("codec"), nb::arg("has_fast"), nb::arg("compress"), nb::arg("sort_by"),
             nb::arg("bloom_filters"), nb::arg("threads"), nb::arg("ahead"))
        .def(
            "end", [](BoundLayout& layout) { layout.crew.end(); },
            nb::call_guard<nb::gil_scoped_release>());
    nb::class_<File>(module, "ParquetFile")
        .def(nb::init<BoundLayout&>(), nb::arg("layout"), nb::keep_alive<1, 2>())
        .def("append", &append, nb::arg("batch"), nb::arg("size"))
        .def("end_row_group", &File::end_row_group, nb::call_guard<nb::gil_scoped_release>())
        .def("settle", &File::settle, nb::call_guard<nb::gil_scoped_release>())
        .def(
            "finish",
            [](File& file, const std::vector<std::pair<std::string, nb::bytes>>& metadata,
               const std::string& created_by) {
                KeyValues told;
                for (const auto& [key, value] : metadata) {
                    told.emplace_back(key, std::string(value.c_str(), value.size()));
                }
                file.finish(told, created_by);
            },
            nb::arg("metadata"), nb::arg("created_by"))
        .def(
            "take",
            [](File& file, size_t about) {
                const size_t size = file.ready(about);
                nb::bytes taken(nullptr, size);
                file.take(reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(taken.ptr())), size);
                return taken;
            },
            nb::arg("about"))
        .def_prop_ro("is_settled", &File::is_settled)
        .def_prop_ro("rows", &File::rows)
        .def_prop_ro("is_full", &File::is_full)
        .def_prop_ro("held", &File::held)
        .def_prop_ro("size", &File::size);
}
