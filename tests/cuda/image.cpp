// Images of modules: fatbins, as nvcc makes them, and PTX.
//
// A fatbin has a header of 16 bytes (magic number, version, the header's length, bytes behind it) and entries behind each other, each with a
// header (what it holds, version, the header's length, bytes behind it that count to the entry, architecture at byte 28). Machine code is an ELF file,
// PTX text; either can be compressed. NVIDIA does not describe the format; this is what nvcc 13.0 writes.

#include "image.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace emulator {
namespace {

constexpr uint32_t magic = 0xba55ed50;
constexpr size_t header_bytes = 16, entry_header_bytes = 64;
enum { ptx_entry = 1, machine_code_entry = 2 };
constexpr uint64_t compressed_flags = 0x2000 | 0x8000; // By LZ4, and by zstd.

template <class T> T read(const uint8_t *at) {
    T value;
    memcpy(&value, at, sizeof value);
    return value;
}

// Whether all tables of an ELF file of 64 bits are within its bytes.
bool is_whole_elf(const uint8_t *elf, uint64_t bytes) {
    if (bytes < 64 || memcmp(elf, "\x7f" "ELF\2", 5)) return false;
    uint64_t segments = read<uint64_t>(elf + 32), sections = read<uint64_t>(elf + 40);
    uint64_t segment_bytes = uint64_t(read<uint16_t>(elf + 54)) * read<uint16_t>(elf + 56);
    uint64_t section_bytes = uint64_t(read<uint16_t>(elf + 58)) * read<uint16_t>(elf + 60);
    return segments <= bytes && segment_bytes <= bytes - segments && sections <= bytes && section_bytes <= bytes - sections && section_bytes;
}

// The number behind a word, such as 80 in ".target sm_80"; 0 if there is none.
unsigned number_behind(const char *text, const char *word) {
    const char *at = strstr(text, word);
    return at ? unsigned(strtoul(at + strlen(word), nullptr, 10)) : 0;
}

int examine_text(const char *text, Code *found) {
    unsigned target = number_behind(text, ".target sm_");
    if (!strstr(text, ".version") || !target) return refuse(invalid_image, "cuModuleLoadData: the image is neither a fatbin nor PTX");
    if (target > architecture())
        return refuse(invalid_ptx, "cuModuleLoadData: PTX for compute capability %u.%u, and the card has %u.%u", target / 10, target % 10,
                      architecture() / 10, architecture() % 10);
    return *found = {true, target}, success;
}

} // namespace

unsigned architecture() {
    static const unsigned value = [] {
        const char *text = getenv("POINTWISE_EMULATOR_ARCH");
        unsigned value = text ? unsigned(strtoul(text, nullptr, 10)) : 90;
        if (value < 50 || value > 999) stop("POINTWISE_EMULATOR_ARCH is \"%s\", not a compute capability such as 90", text);
        return value;
    }();
    return value;
}

int examine(const void *image, Code *found) {
    const uint8_t *at = static_cast<const uint8_t *>(image);
    // The first bytes of text can be all that there is.
    if (at[0] != (magic & 0xff) || at[1] != (magic >> 8 & 0xff)) return examine_text(static_cast<const char *>(image), found);
    if (reinterpret_cast<uintptr_t>(image) % 8)
        return refuse(invalid_image, "cuModuleLoadData: the image is misaligned, at an address that is not a multiple of 8");
    if (read<uint32_t>(at) != magic || read<uint16_t>(at + 4) != 1 || read<uint16_t>(at + 6) != header_bytes)
        return refuse(invalid_image, "cuModuleLoadData: the header of the fatbin is broken");
    uint64_t left = read<uint64_t>(at + 8);
    at += header_bytes;
    std::string holds;
    Code best{true, 0};
    for (int number = 0; left; number++) {
        if (left < entry_header_bytes) return refuse(invalid_image, "cuModuleLoadData: the fatbin ends within the header of entry %d", number);
        uint16_t kind = read<uint16_t>(at);
        uint32_t header = read<uint32_t>(at + 4), arch = read<uint32_t>(at + 28);
        uint64_t bytes = read<uint64_t>(at + 8), flags = read<uint64_t>(at + 40);
        if (header < entry_header_bytes || header > left || bytes > left - header || !arch)
            return refuse(invalid_image, "cuModuleLoadData: entry %d of the fatbin, of %llu bytes, is broken or cut off", number, (unsigned long long)bytes);
        const uint8_t *code = at + header;
        if (kind == machine_code_entry && !(flags & compressed_flags) && !is_whole_elf(code, bytes))
            return refuse(invalid_image, "cuModuleLoadData: the machine code for sm_%u in the fatbin is broken or cut off", arch);
        if (kind == machine_code_entry || kind == ptx_entry) {
            bool is_ptx = kind == ptx_entry;
            holds += (holds.empty() ? "" : ", ") + std::string(is_ptx ? "compute_" : "sm_") + std::to_string(arch);
            // Machine code runs on cards of its generation that are not older, PTX on all that are not older; machine code goes first.
            bool runs = arch <= architecture() && (is_ptx || arch / 10 == architecture() / 10);
            if (runs && (best.is_ptx == is_ptx ? arch > best.architecture : best.is_ptx)) best = {is_ptx, arch};
        }
        at += header + bytes;
        left -= header + bytes;
    }
    if (!best.architecture)
        return refuse(no_binary, "cuModuleLoadData: the fatbin holds %s, and the card is of compute capability %u.%u",
                      holds.empty() ? "nothing" : holds.c_str(), architecture() / 10, architecture() % 10);
    return *found = best, success;
}

} // namespace emulator
