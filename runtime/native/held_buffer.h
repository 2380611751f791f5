// A buffer that Python code gave, held as long as this lives.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>

namespace cdp {

class HeldBuffer {
  public:
    explicit HeldBuffer(const nanobind::object& source) {
        if (PyObject_GetBuffer(source.ptr(), &view_, PyBUF_SIMPLE) != 0)
            throw nanobind::python_error();
    }
    ~HeldBuffer() { PyBuffer_Release(&view_); }
    HeldBuffer(const HeldBuffer&) = delete;
    HeldBuffer& operator=(const HeldBuffer&) = delete;
    const uint8_t* data() const { return static_cast<const uint8_t*>(view_.buf); }
    size_t size() const { return static_cast<size_t>(view_.len); }
    std::span<const uint8_t> span() const { return {data(), size()}; }

  private:
    Py_buffer view_{};
};

}  // namespace cdp
