// SPDX-License-Identifier: Apache-2.0
// Sparse storage behind the NAND model: pages, faults and the list of protocol violations.
//
// One store serves every nand_package instance of a process; pages are keyed by (channel, die, plane,
// block, page), hold page_bytes + spare_bytes each and read as FFh while erased. The harness creates a store,
// makes it current with nand_store_attach and keeps the pointer; without that the first nand_package
// instance creates one from its own parameters. All functions return 0 or a count unless said otherwise;
// a place outside the geometry gives -1.
#ifndef INSTINFER_NAND_STORE_H
#define INSTINFER_NAND_STORE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nand_store nand_store;

// Life cycle. `attach` with NULL detaches. The store that an instance created on demand is also `current`.
nand_store *nand_store_create(uint32_t channels, uint32_t dies, uint32_t planes, uint32_t blocks, uint32_t pages,
                              uint32_t page_bytes, uint32_t spare_bytes);
void nand_store_destroy(nand_store *store);
void nand_store_attach(nand_store *store);
nand_store *nand_store_current(void);

// Content, past the array's rules: a write sets bytes [offset, offset + bytes) and makes the page programmed.
int nand_store_read(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block, uint32_t page,
                    uint32_t offset, uint32_t bytes, uint8_t *out);
int nand_store_write(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block,
                     uint32_t page, uint32_t offset, uint32_t bytes, const uint8_t *in);
int nand_store_erase(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block);
void nand_store_clear(nand_store *store);

// Programmed pages in ascending key order; key = page 11:0, block 24:12, plane 31:25, die 47:32, channel 63:48.
uint64_t nand_store_count(nand_store *store);
uint64_t nand_store_list(nand_store *store, uint64_t *keys, uint64_t capacity);

// A file with the geometry and all programmed pages. -2: cannot open, -3: not such a file or another geometry.
int nand_store_save(nand_store *store, const char *path);
int nand_store_load(nand_store *store, const char *path);

// A die's parameter page: byte `at` (0 to 253) has this value, with a right checksum; the first `copies` copies have
// a wrong one. Until nand_store_clear_faults.
int nand_store_parameter(nand_store *store, uint32_t channel, uint32_t die, uint32_t at, uint32_t value);
int nand_store_damage_parameters(nand_store *store, uint32_t channel, uint32_t die, uint32_t copies);
int nand_store_keep_features(nand_store *store, uint32_t channel, uint32_t die);  // SET FEATURES changes nothing

// Faults. They stay until nand_store_clear_faults; a flipped bit is content and stays until the erase.
int nand_store_flip(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block, uint32_t page,
                    uint32_t bit);
int nand_store_fail_program(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block,
                            uint32_t page);
int nand_store_fail_erase(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block);
int nand_store_bad_block(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block);
// The next plane operations of a die fail and change nothing; a count of 0 ends that.
int nand_store_fail_next(nand_store *store, uint32_t channel, uint32_t die, uint32_t programs, uint32_t erases);
int nand_store_stick(nand_store *store, uint32_t channel, uint32_t die);  // R/B_n stays low from its next busy time on
int nand_store_unstick(nand_store *store, uint32_t channel, uint32_t die);
int nand_store_inject(nand_store *store, uint64_t seed, uint32_t flips, uint32_t program_failures,
                      uint32_t erase_failures, uint32_t bad_blocks);
void nand_store_clear_faults(nand_store *store);

// Protocol violations that the instances reported; texts are kept for the first 64.
uint64_t nand_store_errors(nand_store *store);
const char *nand_store_message(nand_store *store, uint64_t index);
void nand_store_clear_errors(nand_store *store);

#ifdef __cplusplus
}
#endif
#endif
