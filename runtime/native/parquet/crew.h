// Threads that do pieces of work for the one that has it, and together with it where it waits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace cdp::parquet {

class Crew {
  public:
    using Task = std::function<void()>;

    // Tasks that are done one after the other, in the order in which they were given.
    class Line {
        friend class Crew;
        std::deque<Task> tasks_;
        bool is_queued_ = false;  // or at work
        Line* next_ = nullptr;    // behind it in the queue
    };

    // `threads`: besides those that wait in `help`; they begin with the first task.
    explicit Crew(size_t threads) : threads_wanted_(threads) {}
    ~Crew() { end(); }
    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;

    // Whether tasks are done while nobody waits for them.
    bool has_threads() const { return threads_wanted_ != 0; }

    // Gives a task, which must not throw and may give others. The line outlives the crew.
    void give(Line& line, Task task);
    // Gives one that takes longer the larger it is. The crew's threads begin with the largest of
    // these, and then turn to lines; who helps begins with lines, to be done with it soon.
    void give(size_t size, Task task);
    // Does tasks until `done` holds, which is looked at after each one.
    void help(const std::function<bool()>& done);
    // Ends the threads; tasks that nobody has begun are dropped.
    void end();

  private:
    void work();
    // Does one task, if there is any.
    bool do_one(std::unique_lock<std::mutex>& lock, bool is_helper);
    void queue(Line& line);
    // Has somebody look at a task that is new.
    void call();

    std::mutex mutex_;
    std::condition_variable given_;
    std::condition_variable done_;
    size_t idle_ = 0;     // threads of the crew that wait for a task
    size_t helping_ = 0;  // threads that wait for one to be done, or for one to do
    std::multimap<size_t, Task> sized_;
    Line* first_ = nullptr;  // of the lines that have a task and none at work
    Line* last_ = nullptr;
    bool ending_ = false;
    std::atomic<size_t> threads_wanted_;
    std::vector<std::thread> threads_;
};

}  // namespace cdp::parquet
