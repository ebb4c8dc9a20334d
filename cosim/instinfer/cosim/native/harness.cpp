// SPDX-License-Identifier: Apache-2.0
// The clock loop around a Verilated engine: host memory, device DRAM, the BAR, events and waveforms.
//
// A cycle: the rising edge moves the inputs into the top's registers, and the design settles; handshakes are taken;
// memories and BAR, whose outputs depend on their state alone, give what the design sees in the next cycle.
#include "harness.hpp"

#include <sys/mman.h>

#include <cstdarg>
#include <memory>

#include "Vtop.h"
#include "simulation.hpp"  // generated: INSTINFER_EVENT_SOURCES(X), one X(port) per event port; INSTINFER_NAND;
                           // INSTINFER_PAGE_PORTS(X), one X(port) per manager of pages in DDR; INSTINFER_TICKS
#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
#endif
#if INSTINFER_NAND
#include "nand_store.h"
#endif

namespace {

using instinfer::AxiMemory;
using instinfer::Event;
using instinfer::MemoryCounts;
using instinfer::MemoryTiming;
using instinfer::ProtocolError;

constexpr unsigned kBarTimeout = 20000;
constexpr uint64_t kTouchedGranule = 1 << 16;
constexpr size_t kTextLimit = 4000;

thread_local std::string* printed = nullptr;  // where the running simulation's text goes

#define INSTINFER_AXI_PINS(NAME, PREFIX)                                             \
    struct NAME {                                                                    \
        Vtop& top;                                                                   \
        auto& arvalid() { return top.PREFIX##_arvalid; }                             \
        auto& arready() { return top.PREFIX##_arready; }                             \
        auto& araddr() { return top.PREFIX##_araddr; }                               \
        auto& arlen() { return top.PREFIX##_arlen; }                                 \
        auto& rvalid() { return top.PREFIX##_rvalid; }                               \
        auto& rready() { return top.PREFIX##_rready; }                               \
        void* rdata() { return top.PREFIX##_rdata.data(); }                          \
        auto& rresp() { return top.PREFIX##_rresp; }                                 \
        auto& rlast() { return top.PREFIX##_rlast; }                                 \
        auto& awvalid() { return top.PREFIX##_awvalid; }                             \
        auto& awready() { return top.PREFIX##_awready; }                             \
        auto& awaddr() { return top.PREFIX##_awaddr; }                               \
        auto& awlen() { return top.PREFIX##_awlen; }                                 \
        auto& wvalid() { return top.PREFIX##_wvalid; }                               \
        auto& wready() { return top.PREFIX##_wready; }                               \
        const void* wdata() { return top.PREFIX##_wdata.data(); }                    \
        auto& wstrb() { return top.PREFIX##_wstrb; }                                 \
        auto& wlast() { return top.PREFIX##_wlast; }                                 \
        auto& bvalid() { return top.PREFIX##_bvalid; }                               \
        auto& bready() { return top.PREFIX##_bready; }                               \
        auto& bresp() { return top.PREFIX##_bresp; }                                 \
    }
INSTINFER_AXI_PINS(HostPins, host);
INSTINFER_AXI_PINS(DramPins, dram);

#define INSTINFER_PAGE_PINS(PORT) INSTINFER_AXI_PINS(Pins_##PORT, PORT);
INSTINFER_PAGE_PORTS(INSTINFER_PAGE_PINS)

struct HostObserver {
    bool watched = false;
    void wrote(const uint8_t*, bool watch) { watched |= watch; }
};

struct DramObserver {
    uint8_t* base = nullptr;
    std::vector<uint8_t> touched;
    void wrote(const uint8_t* data, bool) { touched[static_cast<size_t>(data - base) / kTouchedGranule] = 1; }
};

// A manager of pages in DDR, whatever its pins: it shares memory and bandwidth with the others.
struct PagePort {
    virtual ~PagePort() = default;
    virtual void drive(uint64_t now) = 0;
    virtual void sample(uint64_t now) = 0;
    virtual void reset() = 0;
    virtual void poison(const std::vector<instinfer::Poison>& poisons) = 0;
    virtual MemoryCounts counts() const = 0;
};

template <class Pins>
struct PagePortOf final : PagePort {
    PagePortOf(const char* name, Vtop& top, DramObserver& observer, const MemoryTiming& timing,
               std::shared_ptr<instinfer::Bandwidth> rate, uint64_t bytes)
        : memory(name, Pins{top}, observer, timing, std::move(rate)) {
        memory.map.add({0, bytes, observer.base, false});
    }
    void drive(uint64_t now) override { memory.drive(now); }
    void sample(uint64_t now) override { memory.sample(now); }
    void reset() override { memory.reset(); }
    void poison(const std::vector<instinfer::Poison>& poisons) override { memory.map.poison(poisons); }
    MemoryCounts counts() const override { return memory.counts(); }
    AxiMemory<Pins, DramObserver> memory;
};

// One access at a time to the AXI4-Lite registers.
class Bar {
  public:
    explicit Bar(Vtop& top) : top_(top) {}
    void start(bool write, uint32_t offset, uint32_t value) {
        write_ = write;
        address_ = data_ = active = true;
        top_.bar_awaddr = top_.bar_araddr = offset;
        top_.bar_wdata = value;
    }
    void drive() {
        top_.bar_awvalid = write_ && address_;
        top_.bar_wvalid = write_ && data_;
        top_.bar_arvalid = !write_ && address_;
    }
    void sample() {
        if (write_) {
            const bool address = top_.bar_awvalid && top_.bar_awready;
            const bool data = top_.bar_wvalid && top_.bar_wready;
            if (top_.bar_bvalid && !address_ && !data_) finish(top_.bar_bresp);
            if (address) address_ = false;
            if (data) data_ = false;
        } else {
            if (top_.bar_rvalid && !address_) {
                value = top_.bar_rdata;
                finish(top_.bar_rresp);
            }
            if (top_.bar_arvalid && top_.bar_arready) address_ = false;
        }
    }
    void abandon() {
        address_ = data_ = active = false;
        drive();
    }
    bool active = false;
    uint8_t response = 0;
    uint32_t value = 0;

  private:
    void finish(uint8_t answer) {
        response = answer;
        active = false;
    }
    Vtop& top_;
    bool write_ = false, address_ = false, data_ = false;
};

// The newest events, oldest first.
class EventRing {
  public:
    void start(uint64_t capacity) {
        events_.assign(capacity, Event{});
        head_ = count_ = lost_ = 0;
    }
    bool enabled() const { return !events_.empty(); }
    void push(uint64_t cycle, uint32_t source, uint64_t value) {
        if (count_ == events_.size()) {
            head_ = (head_ + 1) % events_.size();
            --count_;
            ++lost_;
        }
        events_[(head_ + count_++) % events_.size()] = {cycle, value, source, 0};
    }
    uint64_t take(Event* target, uint64_t capacity, uint64_t* lost) {
        const uint64_t number = count_ < capacity ? count_ : capacity;
        for (uint64_t i = 0; i < number; ++i) target[i] = events_[(head_ + i) % events_.size()];
        if (number != 0) head_ = (head_ + number) % events_.size();
        count_ -= number;
        *lost = lost_;
        lost_ = 0;
        return number;
    }

  private:
    std::vector<Event> events_;
    uint64_t head_ = 0, count_ = 0, lost_ = 0;
};

#define INSTINFER_COUNT(PORT) +1
constexpr unsigned kSources = 0 INSTINFER_EVENT_SOURCES(INSTINFER_COUNT);

}  // namespace

struct Simulation {
    Simulation(uint64_t bytes, const MemoryTiming& host_timing, const MemoryTiming& dram_timing,
               const uint32_t* geometry)
        : top(&context, "top"), host("host", HostPins{top}, host_observer, host_timing),
          dram("dram", DramPins{top}, dram_observer, dram_timing), bar(top), dram_bytes(bytes) {
        context.fatalOnError(false);
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::runtime_error("mmap of the device DRAM failed");
        dram_observer.base = static_cast<uint8_t*>(memory);
        dram_observer.touched.assign((bytes + kTouchedGranule - 1) / kTouchedGranule, 0);
        dram.map.add({0, bytes, dram_observer.base, false});
#define INSTINFER_OPEN_PAGES(PORT) \
    pages.push_back(std::make_unique<PagePortOf<Pins_##PORT>>(#PORT, top, dram_observer, dram_timing, dram.rate(), bytes));
        INSTINFER_PAGE_PORTS(INSTINFER_OPEN_PAGES)
#undef INSTINFER_OPEN_PAGES
        open_nand(geometry);
        top.rst = 1;
        top.bar_bready = top.bar_rready = 1;
        top.bar_wstrb = 0xF;
    }
    ~Simulation() {
        printed = &text;
        Verilated::threadContextp(&context);  // the design's scopes leave this context, not the one opened last
        close_waves();
        top.final();
        close_nand();
        munmap(dram_observer.base, dram_bytes);
    }

    void step() {
        context.timeInc(1);
        top.clk = 1;
        top.eval();
        dump();
        move_pins();
        if (context.gotFinish()) throw std::runtime_error("the simulation stopped itself");
        host.sample(cycle);
        dram.sample(cycle);
        for (auto& port : pages) port->sample(cycle);
        if (bar.active) {
            bar.sample();
            if (!bar.active) bar.abandon();
        }
        if (events.enabled()) watch_events();
        ++cycle;
        host.drive(cycle);
        drive_memory();
        if (bar.active) bar.drive();
        context.timeInc(1);
        top.clk = 0;
        top.eval();
        dump();
        move_pins();
    }

    // Half of a cycle's ticks, none together with an edge of the clock.
    void move_pins() {
#if INSTINFER_TICKS
        for (int i = 0; i < INSTINFER_TICKS / 2; ++i) {
            top.tick = 1;
            top.eval();
            top.tick = 0;
            top.eval();
        }
#endif
    }

    // All managers of device memory, another one first in each cycle: none starves the others of bandwidth.
    void drive_memory() {
        const size_t turns = pages.size() + 1, first = cycle % turns;
        for (size_t turn = 0; turn < turns; ++turn) {
            const size_t port = (first + turn) % turns;
            if (port == pages.size()) {
                dram.drive(cycle);
            } else {
                pages[port]->drive(cycle);
            }
        }
    }

    int run(uint64_t cycles, bool stop_on_interrupt) {
        for (uint64_t end = cycle + cycles; cycle < end;) {
            step();
            if (host_observer.watched) {
                host_observer.watched = false;
                check_nand();
                return instinfer::kWatchedStore;
            }
            if (stop_on_interrupt && top.irq) {
                check_nand();
                return instinfer::kInterrupt;
            }
        }
        check_nand();
        return instinfer::kCyclesDone;
    }

    void access(bool write, uint32_t offset, uint32_t value) {
        bar.start(write, offset, value);
        for (unsigned i = 0; bar.active; ++i) {
            if (i == kBarTimeout) {
                bar.abandon();
                throw std::runtime_error("the BAR did not answer within " + std::to_string(kBarTimeout) + " cycles");
            }
            step();
        }
        if (bar.response != instinfer::kOkay) throw std::runtime_error("the BAR answered with an error response");
    }

    void reset(uint32_t cycles) {
        top.rst = 1;
        bar.abandon();
        for (uint32_t i = 0; i < cycles; ++i) {
            step();
            host.reset();
            dram.reset();
            for (auto& port : pages) port->reset();
        }
        top.rst = 0;
    }

    void watch_events() {
        uint32_t source = 0;
#define INSTINFER_WATCH(PORT)                          \
    if (const uint64_t value = top.PORT; value != last_events[source]) { \
        last_events[source] = value;                   \
        events.push(cycle, source, value);             \
    }                                                  \
    ++source;
        INSTINFER_EVENT_SOURCES(INSTINFER_WATCH)
#undef INSTINFER_WATCH
    }

    void start_events(uint64_t capacity) {
        events.start(capacity);
        for (uint64_t& value : last_events) value = 0;
    }

#if INSTINFER_NAND
    void open_nand(const uint32_t* g) { nand = nand_store_create(g[0], g[1], g[2], g[3], g[4], g[5], g[6]); }
    void close_nand() { nand_store_destroy(nand); }
    void attach_nand() { nand_store_attach(nand); }
    void check_nand() {
        if (nand_store_errors(nand) != 0) {
            throw std::runtime_error(std::string("the NAND was used against its rules: ") + nand_store_message(nand, 0));
        }
    }
    nand_store* nand = nullptr;
#else
    void open_nand(const uint32_t*) {}
    void close_nand() {}
    void attach_nand() {}
    void check_nand() {}
    void* nand = nullptr;
#endif

#if VM_TRACE_FST
    void dump() {
        if (waves) waves->dump(context.time());
    }
    void open_waves(const char* path) {
        close_waves();
        context.traceEverOn(true);
        waves = std::make_unique<VerilatedFstC>();
        top.trace(waves.get(), 99);
        waves->open(path);
        if (!waves->isOpen()) throw std::runtime_error(std::string("cannot write ") + path);
    }
    void close_waves() {
        if (waves) waves->close();
        waves.reset();
    }
    std::unique_ptr<VerilatedFstC> waves;
#else
    void dump() {}
    void open_waves(const char*) {
        throw std::runtime_error("this library was built without waveforms; build it with trace=True");
    }
    void close_waves() {}
#endif

    VerilatedContext context;
    Vtop top;
    HostObserver host_observer;
    DramObserver dram_observer;
    AxiMemory<HostPins, HostObserver> host;
    AxiMemory<DramPins, DramObserver> dram;
    std::vector<std::unique_ptr<PagePort>> pages;
    Bar bar;
    EventRing events;
    uint64_t last_events[kSources + 1] = {};
    uint64_t dram_bytes;
    uint64_t cycle = 0;
    std::string text;     // what the design printed
    std::string message;  // why the last call failed
    bool failed = false;
};

namespace {

// Runs a call on a simulation; exceptions become -1 and a message with the design's last words.
template <class Call>
int guarded(Simulation* s, Call call) {
    if (s->failed) return -1;
    printed = &s->text;
    Verilated::threadContextp(&s->context);
    s->attach_nand();
    try {
        return call();
    } catch (const std::exception& error) {
        s->failed = true;
        s->message = "cycle " + std::to_string(s->cycle) + ": " + error.what();
        if (!s->text.empty()) s->message += "\n" + s->text;
        return -1;
    }
}

}  // namespace

// Verilator's VL_PRINTF (see binding.py).
int instinfer_print(const char* format, ...) {
    char buffer[2048];
    va_list arguments;
    va_start(arguments, format);
    const int size = std::vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    if (printed != nullptr && printed->size() < kTextLimit) *printed += buffer;
    std::fputs(buffer, stderr);
    return size;
}

extern "C" {

Simulation* sim_open(uint64_t dram_bytes, const MemoryTiming* host, const MemoryTiming* dram,
                     const uint32_t geometry[7]) {
    try {
        return new Simulation(dram_bytes, *host, *dram, geometry);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return nullptr;
    }
}

void sim_close(Simulation* s) { delete s; }

const char* sim_message(const Simulation* s) { return s->message.c_str(); }

int sim_reset(Simulation* s, uint32_t cycles) {
    return guarded(s, [&] { s->reset(cycles); return 0; });
}

int sim_run(Simulation* s, uint64_t cycles, int stop_on_interrupt) {
    return guarded(s, [&] { return s->run(cycles, stop_on_interrupt != 0); });
}

uint64_t sim_cycles(const Simulation* s) { return s->cycle; }

int sim_interrupt(const Simulation* s) { return s->top.irq; }

int sim_bar_read(Simulation* s, uint32_t offset, uint32_t* value) {
    return guarded(s, [&] {
        s->access(false, offset, 0);
        *value = s->bar.value;
        return 0;
    });
}

int sim_bar_write(Simulation* s, uint32_t offset, uint32_t value) {
    return guarded(s, [&] { s->access(true, offset, value); return 0; });
}

int sim_window_add(Simulation* s, uint64_t base, uint64_t bytes, uint8_t* data, int watch) {
    s->host.map.add({base, bytes, data, watch != 0});
    return 0;
}

int sim_window_remove(Simulation* s, uint64_t base, uint64_t bytes, const uint8_t* data) {
    s->host.detach(data, bytes);
    return s->host.map.remove(base) ? 0 : -1;
}

int sim_poison(Simulation* s, int dram, const uint64_t* bases, const uint64_t* bytes, const uint8_t* responses,
               uint32_t count) {
    std::vector<instinfer::Poison> poisons;
    for (uint32_t i = 0; i < count; ++i) {
        poisons.push_back({bases[i], bytes[i], static_cast<instinfer::Response>(responses[i])});
    }
    (dram != 0 ? s->dram.map : s->host.map).poison(poisons);
    if (dram != 0) {
        for (auto& port : s->pages) port->poison(poisons);
    }
    return 0;
}

uint8_t* sim_dram(Simulation* s) { return s->dram_observer.base; }

uint8_t* sim_dram_touched(Simulation* s) { return s->dram_observer.touched.data(); }

void* sim_nand(Simulation* s) { return s->nand; }

void sim_counts(const Simulation* s, int dram, MemoryCounts* counts) {
    *counts = dram != 0 ? s->dram.counts() : s->host.counts();
    if (dram == 0) return;
    for (const auto& port : s->pages) {
        const MemoryCounts more = port->counts();
        counts->read_bytes += more.read_bytes;
        counts->write_bytes += more.write_bytes;
        counts->read_bursts += more.read_bursts;
        counts->write_bursts += more.write_bursts;
        counts->errors += more.errors;
    }
}

int sim_events_start(Simulation* s, uint64_t capacity) {
    s->start_events(capacity);
    return 0;
}

uint64_t sim_events_take(Simulation* s, Event* target, uint64_t capacity, uint64_t* lost) {
    return s->events.take(target, capacity, lost);
}

int sim_waves_open(Simulation* s, const char* path) {
    return guarded(s, [&] { s->open_waves(path); return 0; });
}

int sim_waves_close(Simulation* s) {
    return guarded(s, [&] { s->close_waves(); return 0; });
}
}
