// Memory of the pool that Python code may fill and read: a buffer of a size of its own.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>

#include "pool.h"

namespace cdp {

class Block {
  public:
    explicit Block(size_t size) : size_(size) { memory_.reserve(size, 0); }

    uint8_t* data() const { return memory_.data(); }
    size_t size() const { return size_; }

    // Room for so many bytes, of which those that there are stay.
    void resize(size_t size) {
        memory_.reserve(size, size_);
        size_ = size;
    }

    static int get_buffer(PyObject* self, Py_buffer* view, int flags) {
        auto& block = *nanobind::inst_ptr<Block>(self);
        return PyBuffer_FillInfo(view, self, block.data(), static_cast<Py_ssize_t>(block.size()), 0,
                                 flags);
    }

  private:
    Buffer memory_;
    size_t size_;
};

inline PyType_Slot block_slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(&Block::get_buffer)},
    {0, nullptr},
};

}  // namespace cdp
