// SPDX-License-Identifier: Apache-2.0
// Implementation of nand_store.h, and the DPI functions that nand_core.sv imports.
#include "nand_store.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace {

using Key = uint64_t;
using Bytes = std::vector<uint8_t>;

constexpr char kMagic[8] = {'I', 'N', 'S', 'T', 'N', 'A', 'N', 'D'};
constexpr size_t kMessages = 64;
constexpr uint32_t kPageBits = 12;
constexpr int kSdrModes = 129, kNvDdrModes = 141, kNvDdr2Modes = 142, kNvDdr3Modes = 160;  // in the parameter page

struct Place {
    uint32_t channel, die, plane, block, page;
    Key key() const {
        return Key{page} | Key{block} << kPageBits | Key{plane} << 25 | Key{die} << 32 | Key{channel} << 48;
    }
    Key block_key() const { return key() >> kPageBits; }
    Key die_key() const { return Key{die} | Key{channel} << 16; }
};

enum ProgramResult { kProgrammed = 0, kFailed = 1, kOrder = 2, kUnclean = 3 };

// ONFI's CRC-16 of the parameter page: 8005h, initial 4F4Eh, most significant bit first.
uint16_t parameter_crc(const uint8_t *data, size_t bytes) {
    uint16_t crc = 0x4F4E;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= static_cast<uint16_t>(data[i] << 8);
        for (int bit = 0; bit < 8; bit++) crc = static_cast<uint16_t>(crc & 0x8000 ? (crc << 1) ^ 0x8005 : crc << 1);
    }
    return crc;
}

}  // namespace

struct nand_store {
    uint32_t channels, dies, planes, blocks, pages, page_bytes, spare_bytes;
    std::unordered_map<Key, std::unique_ptr<Bytes>> content;
    std::unordered_map<Key, uint32_t> next_page;  // of a plane-block that holds programmed pages
    std::unordered_set<Key> unclean;              // plane-blocks whose erase failed or was interrupted
    std::unordered_set<Key> program_faults, erase_faults, bad_blocks, stuck, features_kept;
    std::unordered_map<Key, uint32_t> program_failures, erase_failures;  // plane operations of a die still to fail
    std::unordered_map<Key, Bytes> staging;  // register that a program is loaded into, by plane
    std::unordered_map<Key, std::map<uint32_t, uint8_t>> parameters;  // bytes of a die's parameter page that differ
    std::unordered_map<Key, uint32_t> damaged_copies;                 // of a die's parameter page
    std::vector<std::string> messages;
    uint64_t errors = 0;
    // The page that was read last in each plane of each die: most reads are beats of the same page.
    struct Recent {
        Key key = ~Key{0};
        const Bytes *bytes = nullptr;
    };
    std::vector<Recent> recent;

    uint32_t total() const { return page_bytes + spare_bytes; }
    bool inside(const Place &p) const {
        return p.channel < channels && p.die < dies && p.plane < planes && p.block < blocks && p.page < pages;
    }
    static bool fails(std::unordered_map<Key, uint32_t> &counts, const Place &p) {
        if (counts.empty()) return false;
        auto left = counts.find(p.die_key());
        if (left == counts.end()) return false;
        if (--left->second == 0) counts.erase(left);
        return true;
    }
    void forget() { std::fill(recent.begin(), recent.end(), Recent{}); }

    const Bytes *find(const Place &p) {
        Recent &last = recent[(p.channel * dies + p.die) * planes + p.plane];
        Key key = p.key();
        if (last.key != key) {
            auto found = content.find(key);
            last = {key, found == content.end() ? nullptr : found->second.get()};
        }
        return last.bytes;
    }

    Bytes &make(const Place &p) {
        auto &slot = content[p.key()];
        if (!slot) slot = std::make_unique<Bytes>(total(), 0xFF);
        uint32_t &next = next_page[p.block_key()];
        next = std::max(next, p.page + 1);
        forget();
        return *slot;
    }

    void drop_block(Place p) {
        for (p.page = 0; p.page < pages; p.page++) content.erase(p.key());
        next_page.erase(p.block_key());
        unclean.erase(p.block_key());
        forget();
    }
};

namespace {

nand_store *current = nullptr;
std::unique_ptr<nand_store> on_demand;
std::array<uint32_t, 6> opened;  // geometry of the instances: dies, planes, blocks, pages, page and spare bytes

// The current store; when the harness has none, or has taken it away under a running package, a new empty one.
nand_store *active() {
    if (!current) {
        on_demand.reset(nand_store_create(16, opened[0], opened[1], opened[2], opened[3], opened[4], opened[5]));
        current = on_demand.get();
    }
    return current;
}

template <typename T>
bool put(FILE *file, const T &value) {
    return fwrite(&value, sizeof value, 1, file) == 1;
}
template <typename T>
bool get(FILE *file, T &value) {
    return fread(&value, sizeof value, 1, file) == 1;
}

std::vector<Key> sorted_keys(const nand_store *store) {
    std::vector<Key> keys;
    keys.reserve(store->content.size());
    for (const auto &entry : store->content) keys.push_back(entry.first);
    std::sort(keys.begin(), keys.end());
    return keys;
}

Place place_of(Key key) {
    return {static_cast<uint32_t>(key >> 48), static_cast<uint32_t>(key >> 32 & 0xFFFF),
            static_cast<uint32_t>(key >> 25 & 0x7F), static_cast<uint32_t>(key >> kPageBits & 0x1FFF),
            static_cast<uint32_t>(key & 0xFFF)};
}

}  // namespace

extern "C" {

nand_store *nand_store_create(uint32_t channels, uint32_t dies, uint32_t planes, uint32_t blocks, uint32_t pages,
                              uint32_t page_bytes, uint32_t spare_bytes) {
    auto *store = new nand_store{};
    store->channels = channels;
    store->dies = dies;
    store->planes = planes;
    store->blocks = blocks;
    store->pages = pages;
    store->page_bytes = page_bytes;
    store->spare_bytes = spare_bytes;
    store->recent.resize(size_t{channels} * dies * planes);
    return store;
}

void nand_store_destroy(nand_store *store) {
    if (current == store) current = nullptr;
    if (on_demand.get() == store) {
        on_demand.reset();
    } else {
        delete store;
    }
}

void nand_store_attach(nand_store *store) { current = store; }
nand_store *nand_store_current(void) { return current; }

int nand_store_read(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block, uint32_t page,
                    uint32_t offset, uint32_t bytes, uint8_t *out) {
    Place p{channel, die, plane, block, page};
    if (!store->inside(p) || uint64_t{offset} + bytes > store->total()) return -1;
    if (store->bad_blocks.count(p.block_key())) {
        memset(out, 0, bytes);
    } else if (const Bytes *data = store->find(p)) {
        memcpy(out, data->data() + offset, bytes);
    } else {
        memset(out, 0xFF, bytes);
    }
    return 0;
}

int nand_store_write(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block,
                     uint32_t page, uint32_t offset, uint32_t bytes, const uint8_t *in) {
    Place p{channel, die, plane, block, page};
    if (!store->inside(p) || uint64_t{offset} + bytes > store->total()) return -1;
    memcpy(store->make(p).data() + offset, in, bytes);
    return 0;
}

int nand_store_erase(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block) {
    Place p{channel, die, plane, block, 0};
    if (!store->inside(p)) return -1;
    store->drop_block(p);
    return 0;
}

void nand_store_clear(nand_store *store) {
    store->content.clear();
    store->next_page.clear();
    store->unclean.clear();
    store->forget();
}

uint64_t nand_store_count(nand_store *store) { return store->content.size(); }

uint64_t nand_store_list(nand_store *store, uint64_t *keys, uint64_t capacity) {
    std::vector<Key> all = sorted_keys(store);
    std::copy_n(all.begin(), std::min<uint64_t>(capacity, all.size()), keys);
    return all.size();
}

int nand_store_save(nand_store *store, const char *path) {
    std::unique_ptr<FILE, int (*)(FILE *)> file(fopen(path, "wb"), fclose);
    if (!file) return -2;
    const uint32_t geometry[7] = {store->channels, store->dies,       store->planes,     store->blocks,
                                  store->pages,    store->page_bytes, store->spare_bytes};
    bool ok = put(file.get(), kMagic) && put(file.get(), geometry) && put(file.get(), uint64_t{store->content.size()});
    for (Key key : sorted_keys(store)) {
        const Bytes &bytes = *store->content[key];
        ok = ok && put(file.get(), key) && fwrite(bytes.data(), bytes.size(), 1, file.get()) == 1;
    }
    return ok ? 0 : -2;
}

int nand_store_load(nand_store *store, const char *path) {
    std::unique_ptr<FILE, int (*)(FILE *)> file(fopen(path, "rb"), fclose);
    if (!file) return -2;
    char magic[sizeof kMagic];
    uint32_t geometry[7];
    uint64_t count = 0;
    const uint32_t wanted[7] = {store->channels, store->dies,       store->planes,     store->blocks,
                                store->pages,    store->page_bytes, store->spare_bytes};
    if (!get(file.get(), magic) || memcmp(magic, kMagic, sizeof magic) != 0 || !get(file.get(), geometry) ||
        memcmp(geometry, wanted, sizeof wanted) != 0 || !get(file.get(), count))
        return -3;
    nand_store_clear(store);
    for (uint64_t i = 0; i < count; i++) {
        Key key = 0;
        if (!get(file.get(), key) || !store->inside(place_of(key))) return -3;
        Bytes &bytes = store->make(place_of(key));
        if (fread(bytes.data(), bytes.size(), 1, file.get()) != 1) return -3;
    }
    return 0;
}

int nand_store_flip(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block, uint32_t page,
                    uint32_t bit) {
    Place p{channel, die, plane, block, page};
    if (!store->inside(p) || bit >= 8 * store->total()) return -1;
    store->make(p)[bit / 8] ^= static_cast<uint8_t>(1U << bit % 8);
    return 0;
}

int nand_store_fail_program(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block,
                            uint32_t page) {
    Place p{channel, die, plane, block, page};
    if (!store->inside(p)) return -1;
    store->program_faults.insert(p.key());
    return 0;
}

int nand_store_fail_erase(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block) {
    Place p{channel, die, plane, block, 0};
    if (!store->inside(p)) return -1;
    store->erase_faults.insert(p.block_key());
    return 0;
}

int nand_store_bad_block(nand_store *store, uint32_t channel, uint32_t die, uint32_t plane, uint32_t block) {
    Place p{channel, die, plane, block, 0};
    if (!store->inside(p)) return -1;
    store->bad_blocks.insert(p.block_key());
    return 0;
}

int nand_store_stick(nand_store *store, uint32_t channel, uint32_t die) {
    Place p{channel, die, 0, 0, 0};
    if (!store->inside(p)) return -1;
    store->stuck.insert(p.die_key());
    return 0;
}

int nand_store_unstick(nand_store *store, uint32_t channel, uint32_t die) {
    Place p{channel, die, 0, 0, 0};
    if (!store->inside(p)) return -1;
    store->stuck.erase(p.die_key());
    return 0;
}

int nand_store_fail_next(nand_store *store, uint32_t channel, uint32_t die, uint32_t programs, uint32_t erases) {
    Place p{channel, die, 0, 0, 0};
    if (!store->inside(p)) return -1;
    store->program_failures.erase(p.die_key());
    store->erase_failures.erase(p.die_key());
    if (programs > 0) store->program_failures[p.die_key()] = programs;
    if (erases > 0) store->erase_failures[p.die_key()] = erases;
    return 0;
}

int nand_store_inject(nand_store *store, uint64_t seed, uint32_t flips, uint32_t program_failures,
                      uint32_t erase_failures, uint32_t bad_blocks) {
    std::mt19937_64 random(seed);
    std::vector<Key> keys = sorted_keys(store);
    if (flips > 0 && keys.empty()) return -1;
    auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
    auto anywhere = [&] {
        return Place{below(store->channels), below(store->dies), below(store->planes), below(store->blocks),
                     below(store->pages)};
    };
    for (uint32_t i = 0; i < flips; i++) {
        uint32_t bit = below(8 * store->total());
        store->make(place_of(keys[random() % keys.size()]))[bit / 8] ^= static_cast<uint8_t>(1U << bit % 8);
    }
    for (uint32_t i = 0; i < program_failures; i++) store->program_faults.insert(anywhere().key());
    for (uint32_t i = 0; i < erase_failures; i++) store->erase_faults.insert(anywhere().block_key());
    for (uint32_t i = 0; i < bad_blocks; i++) store->bad_blocks.insert(anywhere().block_key());
    return 0;
}

void nand_store_clear_faults(nand_store *store) {
    store->program_faults.clear();
    store->erase_faults.clear();
    store->bad_blocks.clear();
    store->stuck.clear();
    store->features_kept.clear();
    store->program_failures.clear();
    store->erase_failures.clear();
    store->parameters.clear();
    store->damaged_copies.clear();
}

uint64_t nand_store_errors(nand_store *store) { return store->errors; }

const char *nand_store_message(nand_store *store, uint64_t index) {
    return index < store->messages.size() ? store->messages[index].c_str() : "";
}

int nand_store_parameter(nand_store *store, uint32_t channel, uint32_t die, uint32_t at, uint32_t value) {
    const Place p{channel, die, 0, 0, 0};
    if (!store->inside(p) || at >= 254) return -1;
    store->parameters[p.die_key()][at] = static_cast<uint8_t>(value);
    return 0;
}

int nand_store_damage_parameters(nand_store *store, uint32_t channel, uint32_t die, uint32_t copies) {
    const Place p{channel, die, 0, 0, 0};
    if (!store->inside(p)) return -1;
    store->damaged_copies[p.die_key()] = copies;
    return 0;
}

int nand_store_keep_features(nand_store *store, uint32_t channel, uint32_t die) {
    const Place p{channel, die, 0, 0, 0};
    if (!store->inside(p)) return -1;
    store->features_kept.insert(p.die_key());
    return 0;
}

void nand_store_clear_errors(nand_store *store) {
    store->errors = 0;
    store->messages.clear();
}

// -- DPI: called by nand_core.sv ----------------------------------------------------------------

// 1: the current store has this geometry (it is created when there is none); 0: it has another.
int nand_open(int channel, int dies, int planes, int blocks, int pages, int page_bytes, int spare_bytes) {
    const std::array<int, 6> geometry = {dies, planes, blocks, pages, page_bytes, spare_bytes};
    std::transform(geometry.begin(), geometry.end(), opened.begin(), [](int v) { return static_cast<uint32_t>(v); });
    const nand_store *store = active();
    const std::array<uint32_t, 6> found = {store->dies,  store->planes,     store->blocks,
                                           store->pages, store->page_bytes, store->spare_bytes};
    return static_cast<uint32_t>(channel) < store->channels && found == opened;
}

void nand_report(int channel, int die, long long cycle, const char *text) {
    char line[256];
    snprintf(line, sizeof line, "channel %d die %d cycle %lld: %s", channel, die, cycle, text);
    active()->errors++;
    if (active()->messages.size() < kMessages) {
        active()->messages.emplace_back(line);
        fprintf(stderr, "nand: %s\n", line);
    }
}

long long nand_read_beat(int channel, int die, int plane, int block, int page, int column) {
    uint64_t beat = ~uint64_t{0};
    const Place p{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), static_cast<uint32_t>(plane),
                  static_cast<uint32_t>(block), static_cast<uint32_t>(page)};
    if (!active()->bad_blocks.empty() && active()->bad_blocks.count(p.block_key())) return 0;
    if (const Bytes *data = active()->find(p)) memcpy(&beat, data->data() + column, sizeof beat);
    return static_cast<long long>(beat);
}

void nand_load_start(int channel, int die, int plane) {
    const Place p{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), static_cast<uint32_t>(plane), 0, 0};
    active()->staging[p.key()].assign(active()->total(), 0xFF);
}

void nand_load_beat(int channel, int die, int plane, int column, long long beat) {
    const Place p{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), static_cast<uint32_t>(plane), 0, 0};
    memcpy(active()->staging[p.key()].data() + column, &beat, sizeof beat);
}

int nand_program(int channel, int die, int plane, int block, int page) {
    const Place p{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), static_cast<uint32_t>(plane),
                  static_cast<uint32_t>(block), static_cast<uint32_t>(page)};
    auto next = active()->next_page.find(p.block_key());
    if (next != active()->next_page.end() && p.page < next->second) return kOrder;
    if (active()->unclean.count(p.block_key())) return kUnclean;
    if (active()->bad_blocks.count(p.block_key())) return kFailed;
    if (nand_store::fails(active()->program_failures, p)) return kFailed;
    const Bytes &loaded = active()->staging[Place{p.channel, p.die, p.plane, 0, 0}.key()];
    Bytes &stored = active()->make(p);
    std::copy(loaded.begin(), loaded.end(), stored.begin());
    if (!active()->program_faults.count(p.key())) return kProgrammed;
    std::fill(stored.begin() + stored.size() / 2, stored.end(), uint8_t{0xFF});
    return kFailed;
}

int nand_erase(int channel, int die, int plane, int block) {
    const Place p{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), static_cast<uint32_t>(plane),
                  static_cast<uint32_t>(block), 0};
    if (active()->bad_blocks.count(p.block_key())) return kFailed;
    if (nand_store::fails(active()->erase_failures, p)) return kFailed;
    if (active()->erase_faults.count(p.block_key())) {
        active()->unclean.insert(p.block_key());
        return kFailed;
    }
    active()->drop_block(p);
    return kProgrammed;
}

// A reset cut a program (0) or an erase (1) short: half a page is left, or a block that must be erased again. Of a
// program that had not begun (2) nothing is left.
void nand_interrupt(int channel, int die, int plane, int block, int page, int what) {
    const Place p{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), static_cast<uint32_t>(plane),
                  static_cast<uint32_t>(block), static_cast<uint32_t>(page)};
    if (what == 1) {
        active()->unclean.insert(p.block_key());
        return;
    }
    Bytes &stored = active()->make(p);
    std::fill(what == 2 ? stored.begin() : stored.begin() + stored.size() / 2, stored.end(), uint8_t{0xFF});
}

int nand_stuck(int channel, int die) {
    const Place p{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), 0, 0, 0};
    return !active()->stuck.empty() && active()->stuck.count(p.die_key());
}

int nand_keeps_features(int channel, int die) {
    const Place p{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), 0, 0, 0};
    return !active()->features_kept.empty() && active()->features_kept.count(p.die_key());
}

// The ONFI parameter page of a die. Times: tPROG, tBERS, tR in us, tCCS in ns.
static std::array<uint8_t, 256> parameter_page(Key die, int t_prog, int t_bers, int t_r, int t_ccs) {
    std::array<uint8_t, 256> page = {};
    auto number = [&](int at, int bytes, uint32_t value) {
        for (int i = 0; i < bytes; i++) page[at + i] = static_cast<uint8_t>(value >> 8 * i);
    };
    auto text = [&](int at, int bytes, const char *value) {
        memset(page.data() + at, ' ', bytes);
        memcpy(page.data() + at, value, std::min<size_t>(bytes, strlen(value)));
    };
    uint32_t plane_bits = 0;
    while (1U << plane_bits < active()->planes) plane_bits++;
    memcpy(page.data(), "ONFI", 4);
    number(4, 2, 0x01FE);            // revisions up to 4.0
    number(6, 2, 0x0058);            // multi-plane program, erase and read
    number(8, 2, 0x001F);            // cache program, cache read, features, enhanced status
    text(32, 12, "INSTINFER");
    text(44, 20, "SIMULATED NAND");
    number(80, 4, active()->page_bytes);
    number(84, 2, active()->spare_bytes);
    number(92, 4, active()->pages);
    number(96, 4, active()->blocks * active()->planes);
    page[100] = 1;                   // LUNs per target
    page[101] = 0x23;                // 2 column and 3 row address cycles
    page[102] = 1;
    page[110] = 1;                   // programs per page
    page[113] = static_cast<uint8_t>(plane_bits);
    number(kSdrModes, 2, 0x003F);
    number(133, 2, t_prog);
    number(135, 2, t_bers);
    number(137, 2, t_r);
    number(139, 2, t_ccs);
    auto changed = active()->parameters.find(die);
    if (changed != active()->parameters.end())
        for (const auto &[at, value] : changed->second) page[at] = value;
    number(254, 2, parameter_crc(page.data(), 254));
    return page;
}

// Beat of the parameter page's copies, one behind the other.
long long nand_parameter_beat(int channel, int die, int offset, int t_prog, int t_bers, int t_r, int t_ccs) {
    const Key key = Place{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), 0, 0, 0}.die_key();
    auto page = parameter_page(key, t_prog, t_bers, t_r, t_ccs);
    auto damaged = active()->damaged_copies.find(key);
    if (damaged != active()->damaged_copies.end() && static_cast<uint32_t>(offset) / page.size() < damaged->second)
        page[kSdrModes] ^= 0x10;
    uint64_t beat;
    memcpy(&beat, page.data() + offset % page.size() / 8 * 8, sizeof beat);
    return static_cast<long long>(beat);
}

// A byte of a die's parameter page, unless it was changed already.
void nand_offer(int channel, int die, int at, int value) {
    const Key key = Place{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), 0, 0, 0}.die_key();
    active()->parameters[key].try_emplace(static_cast<uint32_t>(at), static_cast<uint8_t>(value));
}

// Does the parameter page list this timing mode (P1 of feature 01h: mode 3:0, data interface 5:4)?
int nand_timing_mode_known(int channel, int die, int mode) {
    const Key key = Place{static_cast<uint32_t>(channel), static_cast<uint32_t>(die), 0, 0, 0}.die_key();
    const auto page = parameter_page(key, 0, 0, 0, 0);
    constexpr std::array<int, 4> at = {kSdrModes, kNvDdrModes, kNvDdr2Modes, kNvDdr3Modes};
    return (mode & 0xC8) == 0 && page[at[mode >> 4 & 3]] >> (mode & 7) & 1;
}

}  // extern "C"
