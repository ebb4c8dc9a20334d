// SPDX-License-Identifier: Apache-2.0
// The C interface of the simulation library, as binding.py declares it to ctypes.
//
// Functions return 0 or a value that their line explains; a negative one means that sim_message() has the
// reason. A simulation that failed stays failed. One thread at a time may use a simulation.
#pragma once

#include <cstdint>

#include "axi.hpp"

namespace instinfer {

// Why sim_run came back.
enum Stop : int { kCyclesDone = 0, kWatchedStore = 1, kInterrupt = 2 };

struct Event {
    uint64_t cycle;
    uint64_t value;
    uint32_t source;
    uint32_t reserved;
};

}  // namespace instinfer

extern "C" {

struct Simulation;

// `geometry`: channels, dies, planes, blocks, pages, page bytes, spare bytes of the NAND; unused without NAND.
Simulation* sim_open(uint64_t dram_bytes, const instinfer::MemoryTiming* host, const instinfer::MemoryTiming* dram,
                     const uint32_t geometry[7]);
void sim_close(Simulation*);
const char* sim_message(const Simulation*);
int sim_reset(Simulation*, uint32_t cycles);
int sim_run(Simulation*, uint64_t cycles, int stop_on_interrupt);  // a Stop
uint64_t sim_cycles(const Simulation*);
int sim_interrupt(const Simulation*);

int sim_bar_read(Simulation*, uint32_t offset, uint32_t* value);
int sim_bar_write(Simulation*, uint32_t offset, uint32_t value);

int sim_window_add(Simulation*, uint64_t base, uint64_t bytes, uint8_t* data, int watch);
int sim_window_remove(Simulation*, uint64_t base, uint64_t bytes, const uint8_t* data);
int sim_poison(Simulation*, int dram, const uint64_t* bases, const uint64_t* bytes, const uint8_t* responses,
               uint32_t count);

uint8_t* sim_dram(Simulation*);
uint8_t* sim_dram_touched(Simulation*);  // a byte per 64 KiB
void* sim_nand(Simulation*);  // the nand_store (nand_store.h), null without NAND
void sim_counts(const Simulation*, int dram, instinfer::MemoryCounts*);

int sim_events_start(Simulation*, uint64_t capacity);
uint64_t sim_events_take(Simulation*, instinfer::Event*, uint64_t capacity, uint64_t* lost);  // how many

int sim_waves_open(Simulation*, const char* path);
int sim_waves_close(Simulation*);
}
