// SPDX-License-Identifier: Apache-2.0
// AXI4 memories for a Verilated design: host memory behind PCIe, and device DRAM behind one or more managers.
//
// A memory has two steps per clock cycle: drive() sets the subordinate's outputs from its state alone, and,
// when the design has settled with them, sample() takes the handshakes. Everything is answered in order.
//
// Ordering (PCIe's): writes land in the order of their data beats, `write_cycles` after the beat; the write
// response may come before (posted write); a read sees every write beat that was taken before its address.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace instinfer {

constexpr unsigned kBeatBytes = 32;
constexpr uint64_t kPage = 4096;
enum Response : uint8_t { kOkay = 0, kSlaveError = 2, kDecodeError = 3, kNoAnswer = 4 };

class ProtocolError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// What a memory may move. Rates are in bytes per 1000 cycles; reads and writes have a bucket each, or
// share one, as do all managers of one memory. The total is checked again at every beat, by other arithmetic
// than the bucket's.
struct MemoryTiming {
    uint32_t read_cycles;
    uint32_t write_cycles;
    uint32_t response_cycles;
    uint32_t bytes_per_kilocycle;
    uint32_t shared;
    uint32_t outstanding;
};

class Bandwidth {
  public:
    explicit Bandwidth(uint32_t bytes_per_kilocycle) : rate_(bytes_per_kilocycle) {}
    // Whether a beat may be offered; its credit is gone then, so that nobody else offers on it.
    bool reserve(uint64_t now) {
        credit_ += (now - updated_) * rate_;
        updated_ = now;
        if (credit_ > kBurst) credit_ = kBurst;
        if (credit_ < kBeat) return false;
        credit_ -= kBeat;
        return true;
    }
    // A beat that was offered and not taken.
    void give_back() { credit_ += kBeat; }
    void take(uint64_t now) {
        bytes += kBeatBytes;
        if (bytes * 1000 > (now + 1) * rate_ + kBurst) {
            throw ProtocolError("a memory moved " + std::to_string(bytes) + " bytes in " + std::to_string(now)
                                + " cycles, more than its " + std::to_string(rate_) + " bytes per 1000 cycles");
        }
    }
    uint64_t bytes = 0;

  private:
    static constexpr uint64_t kBeat = kBeatBytes * 1000;
    static constexpr uint64_t kBurst = 64 * kBeat;  // what a bridge's buffers smooth
    uint64_t rate_;
    uint64_t credit_ = kBurst;
    uint64_t updated_ = 0;
};

// A range of the bus that a buffer of the host's process stands behind.
struct Window {
    uint64_t base;
    uint64_t bytes;
    uint8_t* data;
    bool watch;
};

// An address range whose accesses are answered with an error, or (kNoAnswer) not before it is none any more.
struct Poison {
    uint64_t base;
    uint64_t bytes;
    Response response;
};

struct MemoryCounts {
    uint64_t read_bytes, write_bytes, read_bursts, write_bursts, errors;
};

// Where addresses lead. Device DRAM is one window at address 0.
class AddressMap {
  public:
    // The memory behind [address, address + bytes), or null with the error to answer.
    uint8_t* find(uint64_t address, uint64_t bytes, Response& response, bool& watch) {
        for (const Poison& poison : poisons_) {
            if (poison.response != kNoAnswer && touches(poison, address, bytes)) {
                response = poison.response;
                return nullptr;
            }
        }
        if (last_ < windows_.size() && inside(windows_[last_], address, bytes)) return hit(address, response, watch);
        for (last_ = 0; last_ < windows_.size(); ++last_) {
            if (inside(windows_[last_], address, bytes)) return hit(address, response, watch);
        }
        response = kDecodeError;
        return nullptr;
    }
    void add(const Window& window) { windows_.push_back(window); }
    bool remove(uint64_t base) {
        for (size_t i = 0; i < windows_.size(); ++i) {
            if (windows_[i].base == base) {
                windows_.erase(windows_.begin() + static_cast<std::ptrdiff_t>(i));
                return true;
            }
        }
        return false;
    }
    void poison(const std::vector<Poison>& poisons) { poisons_ = poisons; }
    bool silent(uint64_t address) const {
        for (const Poison& poison : poisons_) {
            if (poison.response == kNoAnswer && touches(poison, address, kBeatBytes)) return true;
        }
        return false;
    }

  private:
    static bool touches(const Poison& poison, uint64_t address, uint64_t bytes) {
        return address < poison.base + poison.bytes && poison.base < address + bytes;
    }
    static bool inside(const Window& window, uint64_t address, uint64_t bytes) {
        return address >= window.base && bytes <= window.bytes && address - window.base <= window.bytes - bytes;
    }
    uint8_t* hit(uint64_t address, Response& response, bool& watch) {
        response = kOkay;
        watch = windows_[last_].watch;
        return windows_[last_].data + (address - windows_[last_].base);
    }
    std::vector<Window> windows_;
    std::vector<Poison> poisons_;
    size_t last_ = 0;
};

// `Pins` gives the design's ports as references: arvalid(), araddr(), ... (see harness.cpp).
// `Observer::wrote(data pointer, watched)` is called for every beat that lands.
template <class Pins, class Observer>
class AxiMemory {
  public:
    // `rate`: another manager's, of the same memory.
    AxiMemory(std::string name, Pins pins, Observer& observer, const MemoryTiming& timing,
              std::shared_ptr<Bandwidth> rate = nullptr)
        : name_(std::move(name)), pins_(pins), observer_(observer), timing_(timing),
          read_rate_(rate ? rate : std::make_shared<Bandwidth>(timing.bytes_per_kilocycle)),
          write_rate_(timing.shared ? read_rate_ : std::make_shared<Bandwidth>(timing.bytes_per_kilocycle)) {}

    AddressMap map;
    std::shared_ptr<Bandwidth> rate() const { return read_rate_; }

    // Outputs for this cycle, from state alone.
    void drive(uint64_t now) {
        if (!landing_.empty()) land(now);
        pins_.arready() = reads_.size() < timing_.outstanding;
        pins_.awready() = writes_.size() < timing_.outstanding;
        if (!read_offered_) offer_read(now);
        pins_.rvalid() = read_offered_;
        write_open_ = beats_left_ != 0 && landing_.size() < 4 * timing_.outstanding
                      && (write_open_ || write_rate_->reserve(now));
        pins_.wready() = write_open_;
        const bool respond = !responses_.empty() && responses_.front().due <= now
                             && !map.silent(responses_.front().address);
        pins_.bvalid() = respond;
        pins_.bresp() = respond ? responses_.front().response : 0;
    }

    // Handshakes of this cycle. Each design output is checked to keep AXI's rules.
    void sample(uint64_t now) {
        if (pins_.arvalid()) take_read_address(now);
        if (read_offered_ && pins_.rready()) finish_read_beat(now);
        if (pins_.wvalid() && write_open_) take_write_beat(now);
        if (pins_.awvalid()) take_write_address();
        if (pins_.bvalid() && pins_.bready()) responses_.pop_front();
    }

    // The design is in reset: what is under way is dropped, what was taken lands.
    void reset() {
        land(UINT64_MAX);
        reads_.clear();
        writes_.clear();
        responses_.clear();
        beats_left_ = 0;
        if (read_offered_) read_rate_->give_back();
        if (write_open_) write_rate_->give_back();
        read_offered_ = write_open_ = false;
        pins_.arready() = pins_.awready() = pins_.wready() = pins_.rvalid() = pins_.bvalid() = 0;
    }

    // Land all posted writes, and forget pointers into a window that goes away.
    void detach(const uint8_t* data, uint64_t bytes) {
        land(UINT64_MAX);
        for (Burst& burst : reads_) drop(burst, data, bytes);
        for (Burst& burst : writes_) drop(burst, data, bytes);
    }

    MemoryCounts counts() const {
        return {read_bytes_, write_bytes_, read_bursts_, write_bursts_, errors_};
    }
    bool idle() const { return reads_.empty() && writes_.empty() && landing_.empty() && responses_.empty(); }

  private:
    struct Burst {
        uint8_t* data;
        uint64_t address;
        uint64_t due;      // reads: earliest cycle of the first beat
        uint64_t fence;    // reads: number of write beats that must have landed
        uint32_t beats;
        Response response;
        bool watch;
    };
    struct Landing {
        uint8_t* target;
        uint64_t due;
        uint32_t strobe;
        bool watch;
        uint8_t bytes[kBeatBytes];
    };
    struct Answer {
        uint64_t due;
        uint64_t address;
        Response response;
    };

    [[noreturn]] void violation(const std::string& what) {
        throw ProtocolError("AXI " + name_ + ": " + what);
    }

    static void drop(Burst& burst, const uint8_t* data, uint64_t bytes) {
        if (burst.data >= data && burst.data < data + bytes) {
            burst.data = nullptr;
            burst.response = kDecodeError;
        }
    }

    void land(uint64_t now) {
        while (!landing_.empty() && landing_.front().due <= now) {
            const Landing& beat = landing_.front();
            if (beat.target != nullptr) {
                if (beat.strobe == UINT32_MAX) {
                    std::memcpy(beat.target, beat.bytes, kBeatBytes);
                } else {
                    for (unsigned i = 0; i < kBeatBytes; ++i) {
                        if (beat.strobe >> i & 1) beat.target[i] = beat.bytes[i];
                    }
                }
                observer_.wrote(beat.target, beat.watch);
            }
            ++landed_;
            landing_.pop_front();
        }
    }

    Burst open(uint64_t address, uint32_t beats, const char* what) {
        const uint64_t bytes = static_cast<uint64_t>(beats) * kBeatBytes;
        char text[160];
        if (address % kBeatBytes != 0) {
            std::snprintf(text, sizeof text, "%s address %#llx is not aligned to 32 bytes", what,
                          static_cast<unsigned long long>(address));
            violation(text);
        }
        if (address / kPage != (address + bytes - 1) / kPage) {
            std::snprintf(text, sizeof text, "%s burst of %u beats at %#llx crosses a 4 KiB edge", what, beats,
                          static_cast<unsigned long long>(address));
            violation(text);
        }
        Burst burst{};
        burst.data = map.find(address, bytes, burst.response, burst.watch);
        burst.address = address;
        burst.beats = beats;
        errors_ += burst.data == nullptr;
        return burst;
    }

    void take_read_address(uint64_t now) {
        if (!pins_.arready()) return;
        Burst burst = open(pins_.araddr(), pins_.arlen() + 1U, "read");
        burst.due = now + timing_.read_cycles;
        burst.fence = accepted_;
        reads_.push_back(burst);
        ++read_bursts_;
    }

    void offer_read(uint64_t now) {
        if (reads_.empty()) return;
        const Burst& burst = reads_.front();
        if (burst.due > now || burst.fence > landed_ || map.silent(burst.address) || !read_rate_->reserve(now)) return;
        read_offered_ = true;
        pins_.rlast() = burst.beats == 1;
        pins_.rresp() = burst.response;
        if (burst.data != nullptr) {
            std::memcpy(pins_.rdata(), burst.data, kBeatBytes);
        } else {
            std::memset(pins_.rdata(), 0xEE, kBeatBytes);
        }
    }

    void finish_read_beat(uint64_t now) {
        read_rate_->take(now);
        read_bytes_ += kBeatBytes;
        read_offered_ = false;
        Burst& burst = reads_.front();
        if (burst.data != nullptr) burst.data += kBeatBytes;
        if (--burst.beats == 0) reads_.pop_front();
    }

    void take_write_address() {
        if (!pins_.awready()) return;
        writes_.push_back(open(pins_.awaddr(), pins_.awlen() + 1U, "write"));
        if (beats_left_ == 0) beats_left_ = writes_.front().beats;
        ++write_bursts_;
    }

    void take_write_beat(uint64_t now) {
        write_rate_->take(now);
        write_bytes_ += kBeatBytes;
        write_open_ = false;
        Burst& burst = writes_.front();
        landing_.emplace_back();
        Landing& beat = landing_.back();
        beat.target = burst.data;
        beat.due = now + timing_.write_cycles;
        beat.strobe = pins_.wstrb();
        beat.watch = burst.watch;
        std::memcpy(beat.bytes, pins_.wdata(), kBeatBytes);
        ++accepted_;
        if (burst.data != nullptr) burst.data += kBeatBytes;
        --beats_left_;
        if ((beats_left_ == 0) != (pins_.wlast() != 0)) violation("wlast is not on the last beat of its burst");
        if (beats_left_ == 0) {
            responses_.push_back({now + timing_.response_cycles, burst.address, burst.response});
            writes_.pop_front();
            if (!writes_.empty()) beats_left_ = writes_.front().beats;
        }
    }

    std::string name_;
    Pins pins_;
    Observer& observer_;
    MemoryTiming timing_;
    std::shared_ptr<Bandwidth> read_rate_, write_rate_;
    std::deque<Burst> reads_, writes_;
    std::deque<Landing> landing_;
    std::deque<Answer> responses_;
    uint32_t beats_left_ = 0;      // of the write burst whose data come now
    uint64_t accepted_ = 0;        // write beats taken
    uint64_t landed_ = 0;          // write beats in memory
    bool read_offered_ = false, write_open_ = false;
    uint64_t read_bursts_ = 0, write_bursts_ = 0, read_bytes_ = 0, write_bytes_ = 0, errors_ = 0;
};

}  // namespace instinfer
