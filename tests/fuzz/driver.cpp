// The fuzzer: mutates messages, keeps those that reach new code, and stops at the first finding.
//
//     fuzz TABLES --seconds 30 [--seed 1] [--executions N] [--out DIR] [FOUND ...]
//     fuzz TABLES --run FOUND ...
//
// A worker process runs the inputs; the one that started it sees it die, makes the input smaller in
// further processes, and writes it to a file. FOUND are such files, of which each run begins.
// Coverage comes from gcc's (or clang's) -fsanitize-coverage=trace-pc on the core alone. The inputs
// of one seed are always the same; only how many there is time for is not.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <new>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mutate.h"
#include "tables.h"
#include "target.h"

extern "C" const char __executable_start;

namespace {

// ---- coverage ----

constexpr size_t kEdges = size_t{1} << 20;
bool g_hit[kEdges];  // since the last reset
bool g_known[kEdges];
uint32_t g_touched[kEdges];  // those that are set
size_t g_count = 0;
uintptr_t g_before = 0;

}  // namespace

// Called at every basic block of the core.
extern "C" [[gnu::no_sanitize("address", "undefined")]] void __sanitizer_cov_trace_pc() {
    const uintptr_t place = reinterpret_cast<uintptr_t>(__builtin_return_address(0)) -
                            reinterpret_cast<uintptr_t>(&__executable_start);
    const uintptr_t block = place * 0x9E3779B97F4A7C15u >> 44;
    const uintptr_t edge = (block ^ g_before >> 1) % kEdges;
    g_before = block;
    if (!g_hit[edge]) {
        g_hit[edge] = true;
        g_touched[g_count++] = static_cast<uint32_t>(edge);
    }
}

// Findings beside the sanitizers' own: memory out of all proportion. Leaks are looked for at the
// end.
extern "C" const char* __asan_default_options() {
    return "max_allocation_size_mb=512:malloc_context_size=6:abort_on_error=0";
}
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1"; }

namespace {

std::span<const uint32_t> touched() { return std::span(g_touched).first(g_count); }

void reset_coverage() {
    for (const uint32_t edge : touched()) g_hit[edge] = false;
    g_count = 0;
    g_before = 0;
}

bool is_new() {
    return std::ranges::any_of(touched(), [](uint32_t edge) { return !g_known[edge]; });
}

size_t learn() {
    size_t count = 0;
    for (const uint32_t edge : touched()) count += std::exchange(g_known[edge], true) ? 0 : 1;
    return count;
}

// ---- inputs ----

struct Group {  // of inputs that run together
    std::string table;
    bool encoder = false;
    uint64_t choice = 0;  // see run_decoder
    std::vector<std::string> inputs;
};

// One line for the table, the direction and the choice, then one for each input, in hexadecimal.
std::string to_text(const Group& group) {
    static constexpr const char* kDigits = "0123456789abcdef";
    std::string text = group.table + (group.encoder ? " encode " : " decode ") +
                       std::to_string(group.choice) + '\n';
    for (const std::string& input : group.inputs) {
        for (const char byte : input) {
            text += kDigits[static_cast<uint8_t>(byte) >> 4];
            text += kDigits[static_cast<uint8_t>(byte) & 15];
        }
        text += '\n';
    }
    return text;
}

Group from_text(std::istream& text) {
    Group group;
    std::string direction;
    text >> group.table >> direction >> group.choice;
    text.ignore();
    group.encoder = direction == "encode";
    if (!group.encoder && direction != "decode") throw std::runtime_error("no file of an input");
    for (std::string line; std::getline(text, line);) {
        std::string input;
        for (size_t i = 0; i + 1 < line.size(); i += 2) {
            input += static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16));
        }
        group.inputs.push_back(std::move(input));
    }
    if (group.inputs.empty()) group.inputs.emplace_back();
    return group;
}

Group read_group(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path);
    return from_text(file);
}

// What the worker tells the process that started it.
struct Shared {
    size_t executions;
    size_t edges;
    size_t corpus;
    size_t text_size;  // of the group that runs now
    char text[size_t{4} << 20];
};

// ---- the worker ----

constexpr unsigned kMostSeconds = 20;  // of one group
constexpr int kFound = 70;             // the exit code of a property that does not hold

class Worker {
  public:
    Worker(std::vector<fuzz::Table>& tables, Shared& shared, uint64_t seed)
        : tables_(tables), shared_(shared), random_(seed) {}

    // Runs a group; what it finds ends the process.
    void run(const Group& group) {
        watched(group, [&group](fuzz::Table& table) {
            if (group.encoder) {
                for (const std::string& input : group.inputs) fuzz::run_encoder(table, input);
            } else {
                fuzz::run_decoder(table, group.inputs, group.choice);
            }
        });
        shared_.executions += group.inputs.size();
    }

    void fuzz_for(double seconds, size_t executions) {
        using Clock = std::chrono::steady_clock;
        const auto end = Clock::now() + std::chrono::duration<double>(seconds);
        seed_pools();
        while (Clock::now() < end && shared_.executions < executions) try_group(next_group());
        shared_.text_size = 0;
    }

  private:
    // Leaves word of what is run, for the case that this process dies of it.
    void watched(const Group& group, const std::function<void(fuzz::Table&)>& work) {
        const auto table = std::ranges::find(
            tables_, group.table, [](const fuzz::Table& one) { return one.spec.message; });
        if (table == tables_.end()) throw std::runtime_error("no table " + group.table);
        const std::string text = to_text(group);
        shared_.text_size = std::min(text.size(), sizeof shared_.text);
        std::memcpy(shared_.text, text.data(), shared_.text_size);
        alarm(kMostSeconds);
        reset_coverage();
        try {
            work(*table);
        } catch (const std::exception& error) {
            std::fprintf(stderr, "%s: %s\n", group.table.c_str(), error.what());
            _exit(kFound);
        }
        alarm(0);
    }

    struct Pool {  // the inputs of a table in one direction
        Group like;
        std::vector<std::string> inputs;
    };

    void seed_pools() {
        for (const fuzz::Table& table : tables_) {
            pools_.push_back({{table.spec.message, false, 0, {}}, {}});
            pools_.push_back({{table.spec.message, true, 0, {}}, {}});
            // As an encoder's input any bytes do.
            for (const bool encoder : {false, true}) {
                Group group{table.spec.message, encoder, 0, {}};
                for (const std::string& seed : table.seeds) {
                    group.inputs.push_back(seed);
                    if (group.inputs.size() < size_of(group)) continue;
                    try_group(group);
                    group.inputs.clear();
                }
            }
        }
    }

    Pool& pool_of(const Group& group) {
        return *std::ranges::find_if(pools_, [&group](const Pool& pool) {
            return pool.like.table == group.table && pool.like.encoder == group.encoder;
        });
    }

    static size_t size_of(const Group& group) { return group.encoder ? 4 : 24; }

    Group next_group() {
        const Pool& pool = pools_[fuzz::below(random_, pools_.size())];
        Group group = pool.like;
        group.choice = random_() >> 1;
        for (size_t i = size_of(group); i > 0; --i) {
            const std::string& one = any_input(pool);
            const std::string& other = any_input(pool);
            group.inputs.push_back(group.encoder ? fuzz::mutate_bytes(random_, one, other)
                                                 : fuzz::mutate_message(random_, one, other));
        }
        return group;
    }

    // Half of the time one of the last that were kept.
    const std::string& any_input(const Pool& pool) {
        constexpr size_t kLast = 16;
        static const std::string kNothing;
        const size_t count = pool.inputs.size();
        if (count == 0) return kNothing;
        const size_t from = fuzz::one_in(random_, 2) && count > kLast ? count - kLast : 0;
        return pool.inputs[from + fuzz::below(random_, count - from)];
    }

    // Runs a group; those of its inputs that reach new code are kept.
    void try_group(const Group& group) {
        run(group);
        if (!is_new()) return;
        const std::vector<uint32_t> together(touched().begin(), touched().end());
        for (const std::string& input : group.inputs) {
            run({group.table, group.encoder, group.choice, {input}});
            if (!is_new()) continue;
            shared_.edges += learn();
            pool_of(group).inputs.push_back(input);
            ++shared_.corpus;
        }
        for (const uint32_t edge : together) {  // what only several inputs reach together
            shared_.edges += std::exchange(g_known[edge], true) ? 0 : 1;
        }
    }

    std::vector<fuzz::Table>& tables_;
    Shared& shared_;
    fuzz::Random random_;
    std::vector<Pool> pools_;
};

// ---- the process around it ----

// The exit code of `work` in a process of its own, or 128 and the signal that ended it.
int in_process(const std::function<void()>& work, bool quiet) {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child < 0) throw std::runtime_error("cannot start a process");
    if (child == 0) {
        if (quiet) {
            std::freopen("/dev/null", "w", stdout);
            std::freopen("/dev/null", "w", stderr);
        }
        work();
        if (quiet) _exit(0);
        std::exit(0);  // and look for leaks
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) throw std::runtime_error("lost a process");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

class Fuzzer {
  public:
    explicit Fuzzer(const std::string& tables) : path_(tables), tables_(fuzz::read_tables(tables)) {
        void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::runtime_error("no shared memory");
        shared_ = new (memory) Shared{};
    }

    bool passes(const Group& group, bool quiet) {
        return in_process([&] { Worker(tables_, *shared_, 0).run(group); }, quiet) == 0;
    }

    // Whether nothing was found.
    bool run(uint64_t seed, double seconds, size_t executions, const std::string& out) {
        const auto begin = std::chrono::steady_clock::now();
        const auto work = [&] { Worker(tables_, *shared_, seed).fuzz_for(seconds, executions); };
        const int code = in_process(work, false);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
        std::printf(
            "%zu executions in %.0f s, %.0f a second; %zu edges; %zu inputs kept; seed %llu\n",
            shared_->executions, taken.count(),
            static_cast<double>(shared_->executions) / taken.count(), shared_->edges,
            shared_->corpus, static_cast<unsigned long long>(seed));
        if (code == 0) return true;
        if (shared_->text_size == 0) {
            std::printf("FOUND after the last input, probably a leak: see above\n");
            return false;
        }
        report(code, out);
        return false;
    }

  private:
    void report(int code, const std::string& out) {
        std::istringstream text(std::string(shared_->text, shared_->text_size));
        Group group = from_text(text);
        const bool again = !passes(group, true);
        if (again) shrink(group);
        std::filesystem::create_directories(out);
        const std::string found = to_text(group);
        char name[64];
        std::snprintf(name, sizeof name, "/found-%016zx", std::hash<std::string>{}(found));
        const std::string path = out + name;
        std::ofstream(path) << found;
        constexpr size_t kShort = 2000;
        std::printf("FOUND (%s), see above\n%s\n",
                    code == 128 + SIGALRM ? "no end"
                    : code == kFound      ? "a property"
                                          : "a crash",
                    found.size() < kShort ? found.c_str() : "");
        if (again) {
            std::printf("Again: %s %s --run %s\n",
                        std::filesystem::read_symlink("/proc/self/exe").c_str(), path_.c_str(),
                        path.c_str());
        } else {
            std::printf("%s alone does not do it, what ran before counts: run this seed again\n",
                        path.c_str());
        }
    }

    // Leaves out inputs and bytes for as long as it still fails.
    void shrink(Group& group) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        const auto late = [end] { return std::chrono::steady_clock::now() > end; };
        for (size_t i = group.inputs.size(); i-- > 0 && group.inputs.size() > 1 && !late();) {
            Group less = group;
            less.inputs.erase(less.inputs.begin() + static_cast<std::ptrdiff_t>(i));
            if (!passes(less, true)) group = less;
        }
        for (size_t chunk = 1024; chunk > 0; chunk /= 2) {
            for (size_t which = 0; which < group.inputs.size(); ++which) {
                for (size_t at = 0; at < group.inputs[which].size() && !late();) {
                    Group less = group;
                    less.inputs[which].erase(at, chunk);
                    if (passes(less, true)) {
                        at += chunk;
                    } else {
                        group = less;
                    }
                }
            }
        }
    }

    std::string path_;
    std::vector<fuzz::Table> tables_;
    Shared* shared_ = nullptr;
};

int main_of(const std::vector<std::string>& arguments) {
    std::map<std::string, std::string> options{
        {"--seconds", "30"}, {"--seed", "1"}, {"--executions", "1000000000000"}, {"--out", "."}};
    bool only_run = false;
    std::vector<std::string> files;
    for (size_t i = 0; i < arguments.size(); ++i) {
        if (arguments[i] == "--run") {
            only_run = true;
        } else if (options.contains(arguments[i]) && i + 1 < arguments.size()) {
            options[arguments[i]] = arguments[i + 1];
            ++i;
        } else {
            files.push_back(arguments[i]);
        }
    }
    if (files.empty()) {
        std::fprintf(stderr, "usage: fuzz TABLES [--run] [--seconds S] [--seed N] [FOUND ...]\n");
        return 2;
    }
    Fuzzer fuzzer(files.front());
    bool good = true;
    for (size_t i = 1; i < files.size(); ++i) {
        const bool passes = fuzzer.passes(read_group(files[i]), false);
        if (!passes || only_run)
            std::printf("%s: %s\n", files[i].c_str(), passes ? "passes" : "FAILS");
        good = good && passes;
    }
    if (only_run || !good) return good ? 0 : 1;
    return fuzzer.run(std::stoull(options["--seed"]), std::stod(options["--seconds"]),
                      std::stoull(options["--executions"]), options["--out"])
               ? 0
               : 1;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        return main_of({arguments + 1, arguments + count});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "fuzz: %s\n", error.what());
        return 2;
    }
}
