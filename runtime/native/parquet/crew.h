// Threads that do a piece of work together with the one that has it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cdp::parquet {

class Crew {
  public:
    // `threads`: besides the one that calls `run`.
    explicit Crew(size_t threads);
    ~Crew();
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;

    // Does `job` for each number below `count`, and throws what one of them threw. One caller at a
    // time.
    void run(size_t count, const std::function<void(size_t)>& job);

  private:
    void work();
    // Takes numbers until there are none left.
    void take_part(std::unique_lock<std::mutex>& lock);

    std::mutex mutex_;
    std::condition_variable begun_;
    std::condition_variable done_;
    const std::function<void(size_t)>* job_ = nullptr;
    size_t next_ = 0;
    size_t count_ = 0;
    size_t busy_ = 0;  // numbers that are being worked on
    std::exception_ptr error_;
    bool ending_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace cdp::parquet
