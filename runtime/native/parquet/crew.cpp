#include "crew.h"

#include <pthread.h>

#include <iterator>
#include <system_error>
#include <utility>

namespace cdp::parquet {

void Crew::end() {
    {
        std::lock_guard lock(mutex_);
        ending_ = true;
        threads_wanted_ = 0;
    }
    given_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
}

void Crew::give(Line& line, Task task) {
    std::lock_guard lock(mutex_);
    line.tasks_.push_back(std::move(task));
    if (line.is_queued_) return;
    queue(line);
    call();
}

void Crew::give(size_t size, Task task) {
    std::lock_guard lock(mutex_);
    sized_.emplace(size, std::move(task));
    call();
}

void Crew::queue(Line& line) {
    line.is_queued_ = true;
    line.next_ = nullptr;
    (last_ != nullptr ? last_->next_ : first_) = &line;
    last_ = &line;
}

void Crew::call() {
    while (threads_.size() < threads_wanted_) {
        try {
            threads_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {
            threads_wanted_ = threads_.size();  // the system has no more: who waits helps
        }
    }
    if (idle_ != 0) {
        given_.notify_one();
    } else if (helping_ != 0) {
        done_.notify_one();
    }
}

void Crew::help(const std::function<bool()>& done) {
    std::unique_lock lock(mutex_);
    while (!done()) {
        if (do_one(lock, true)) continue;
        ++helping_;
        done_.wait(lock);
        --helping_;
    }
}

void Crew::work() {
#ifdef __linux__
    pthread_setname_np(pthread_self(), "cdp parquet");  // for who looks what takes the time
#endif
    std::unique_lock lock(mutex_);
    while (!ending_) {
        if (do_one(lock, false)) continue;
        ++idle_;
        given_.wait(lock);
        --idle_;
    }
}

bool Crew::do_one(std::unique_lock<std::mutex>& lock, bool is_helper) {
    Line* line = nullptr;
    Task task;
    if (first_ != nullptr && (is_helper || sized_.empty())) {
        line = first_;
        first_ = line->next_;
        if (first_ == nullptr) last_ = nullptr;
        task = std::move(line->tasks_.front());
        line->tasks_.pop_front();
    } else if (!sized_.empty()) {
        const auto next = is_helper ? sized_.begin() : std::prev(sized_.end());
        task = std::move(next->second);
        sized_.erase(next);
    } else {
        return false;
    }
    lock.unlock();
    task();
    task = nullptr;  // what it held is gone before anybody looks whether it is done
    lock.lock();
    if (line != nullptr) {
        if (line->tasks_.empty()) {
            line->is_queued_ = false;
        } else {
            queue(*line);
        }
    }
    if (helping_ != 0) done_.notify_all();
    return true;
}

}  // namespace cdp::parquet
