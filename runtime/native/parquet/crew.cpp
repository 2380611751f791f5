#include "crew.h"

#include <utility>

namespace cdp::parquet {

Crew::Crew(size_t threads) {
    for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

Crew::~Crew() {
    {
        std::lock_guard lock(mutex_);
        ending_ = true;
    }
    begun_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Crew::run(size_t count, const std::function<void(size_t)>& job) {
    std::unique_lock lock(mutex_);
    job_ = &job;
    next_ = 0;
    count_ = count;
    begun_.notify_all();
    take_part(lock);
    done_.wait(lock, [this] { return busy_ == 0; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Crew::work() {
    std::unique_lock lock(mutex_);
    while (true) {
        begun_.wait(lock, [this] { return ending_ || next_ < count_; });
        if (ending_) return;
        take_part(lock);
    }
}

void Crew::take_part(std::unique_lock<std::mutex>& lock) {
    while (next_ < count_) {
        const size_t number = next_++;
        ++busy_;
        lock.unlock();
        std::exception_ptr error;
        try {
            (*job_)(number);
        } catch (...) {
            error = std::current_exception();
        }
        lock.lock();
        if (error) {
            error_ = error;
            next_ = count_;
        }
        if (--busy_ == 0) done_.notify_all();
    }
}

}  // namespace cdp::parquet
