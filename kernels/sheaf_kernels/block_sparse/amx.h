// Products on the tile registers of Intel's AMX: 16 rows of 64 bytes each, 16 x 16 sums of 32 products in one instruction.
// A block of 32 is two by two of them, so the hardware's own block is the paper's. Panels are those of pack.h, with two
// differences: they are padded to whole tiles, and a left factor that is summed along the tokens is turned first (`turned`).
#pragma once
#include "tile.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__linux__)
#define BLOCK_SPARSE_AMX 1
#include <sys/syscall.h>
#include <unistd.h>

namespace block_sparse {

struct Amx : BF16 {};

// Whether the system lets this process use tile data; asked once.
inline bool amx() {
  static const bool granted = [] {
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
  }();
  return granted;
}

// While one lives, its thread has eight tiles of 16 rows of 64 bytes: 0 to 3 sums, 4 and 5 left, 6 and 7 right factors.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
};

// R by C tiles of sums, R, C in {1, 2}.
template <int R, int C>
struct Tiles {
  static void start(const float* from, int64_t row) {
    if (!from) {
      _tile_zero(0);
      if (C > 1) _tile_zero(1);
      if (R > 1) _tile_zero(2);
      if (R > 1 && C > 1) _tile_zero(3);
      return;
    }
    _tile_loadd(0, from, 4 * row);
    if (C > 1) _tile_loadd(1, from + 16, 4 * row);
    if (R > 1) _tile_loadd(2, from + 16 * row, 4 * row);
    if (R > 1 && C > 1) _tile_loadd(3, from + 16 * row + 16, 4 * row);
  }

  static void add(const BFloat16* a, int64_t row, const BFloat16* b, int64_t width, int steps) {
    for (int k = 0; k < steps; k += 16, a += 32, b += 16 * width) {  // a step is a pair of products
      _tile_loadd(4, a, 2 * row);
      _tile_loadd(6, b, 2 * width);
      if (C > 1) _tile_loadd(7, b + 32, 2 * width);
      if (R > 1) _tile_loadd(5, a + 16 * row, 2 * row);
      _tile_dpbf16ps(0, 4, 6);
      if (C > 1) _tile_dpbf16ps(1, 4, 7);
      if (R > 1) _tile_dpbf16ps(2, 5, 6);
      if (R > 1 && C > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }

  static void store(float* to, int64_t row) {
    _tile_stored(0, to, 4 * row);
    if (C > 1) _tile_stored(1, to + 16, 4 * row);
    if (R > 1) _tile_stored(2, to + 16 * row, 4 * row);
    if (R > 1 && C > 1) _tile_stored(3, to + 16 * row + 16, 4 * row);
  }

  template <class Out>
  static void run(const Segments<Amx>& segments, int row0, int column0, Start<Amx> from, Out* to, int64_t to_row, int rows, int columns) {
    start(from.from ? from.from + row0 * from.row + column0 : nullptr, from.row);
    // the lines that the sums will go to are fetched for writing while the sums are made, a few at a time
    const int lines = !from.from || from.row == 0 ? std::min(rows, 16 * R) : 0;
    const int each = (lines + segments.size() - 1) / std::max<size_t>(1, segments.size());
    int line = 0;
    for (const Segment<Amx>& s : segments) {
      for (const int until = std::min(lines, line + each); line < until; ++line) __builtin_prefetch(to + line * to_row, 1);
      add(s.a + row0 * s.row, s.row, s.b + column0 * 2, s.width, s.steps);
    }
    if constexpr (std::is_same_v<Out, float>) {
      if (rows >= 16 * R && columns >= 16 * C) return store(to, to_row);
    }
    alignas(64) float sums[16 * R][16 * C];
    store(&sums[0][0], 16 * C);
    for (int m = 0; m < std::min(rows, 16 * R); ++m) {
      Out* line = to + m * to_row;
      if constexpr (C == 2 && std::is_same_v<Out, BFloat16>) {
        if (columns >= 32) {  // a whole cache line
          const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_load_ps(&sums[m][16]), _mm512_load_ps(&sums[m][0]));
          std::memcpy(line, &both, 64);
          continue;
        }
      }
      for (int n = 0; n < C && 16 * n < columns; ++n) put<Amx>(line + 16 * n, _mm512_load_ps(&sums[m][16 * n]), columns - 16 * n);
    }
  }
};

template <>
struct Products<Amx> {
  static constexpr int panel = 32, depth = 32, rows = 32;
  static constexpr bool turns = true;
  using Registers = TileRegisters;

  template <bool tall, class Out>
  static void run(const Segments<Amx>& segments, int rows, int columns, Start<Amx> start, Out* to, int64_t to_row) {
    asm volatile("" ::: "memory");  // the compiler does not know that tile instructions read memory
    for (int n = 0; n < columns; n += 32)
      for (int m = 0; m < rows; m += 32) {
        const auto run = [&](auto tiles) { tiles.run(segments, m, n, start, to + m * to_row + n, to_row, rows - m, columns - n); };
        const bool wide = columns - n > 16;
        if (rows - m > 16) {
          wide ? run(Tiles<2, 2>{}) : run(Tiles<2, 1>{});
        } else {
          wide ? run(Tiles<1, 2>{}) : run(Tiles<1, 1>{});
        }
      }
  }
};

// 32 rows of 16 columns -> 16 rows of 32: pairs of rows side by side, then a transpose of 16 x 16 pairs.
inline void turn(const BFloat16* from, int64_t from_row, int rows, BFloat16* to, int64_t to_row) {
  __m512i q[16], s[16];
  for (int i = 0; i < 16; ++i) {
    const auto half = [&](int r) {
      return r < rows ? _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + r * from_row)))
                      : _mm512_setzero_si512();
    };
    q[i] = _mm512_or_si512(half(2 * i), _mm512_slli_epi32(half(2 * i + 1), 16));
  }
  for (int i = 0; i < 16; i += 2) s[i] = _mm512_unpacklo_epi32(q[i], q[i + 1]), s[i + 1] = _mm512_unpackhi_epi32(q[i], q[i + 1]);
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      q[i + 2 * j] = _mm512_unpacklo_epi64(s[i + j], s[i + j + 2]);
      q[i + 2 * j + 1] = _mm512_unpackhi_epi64(s[i + j], s[i + j + 2]);
    }
  // q[4 g + c] now holds columns c, c + 4, c + 8, c + 12 of rows 4 g to 4 g + 3
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(q[c], q[4 + c], 0x88), high01 = _mm512_shuffle_i32x4(q[c], q[4 + c], 0xdd);
    const __m512i low23 = _mm512_shuffle_i32x4(q[8 + c], q[12 + c], 0x88), high23 = _mm512_shuffle_i32x4(q[8 + c], q[12 + c], 0xdd);
    _mm512_storeu_si512(to + c * to_row, _mm512_shuffle_i32x4(low01, low23, 0x88));
    _mm512_storeu_si512(to + (c + 4) * to_row, _mm512_shuffle_i32x4(high01, high23, 0x88));
    _mm512_storeu_si512(to + (c + 8) * to_row, _mm512_shuffle_i32x4(low01, low23, 0xdd));
    _mm512_storeu_si512(to + (c + 12) * to_row, _mm512_shuffle_i32x4(high01, high23, 0xdd));
  }
}

// Rows of [rows, panels * columns] -> panels [width, tokens] with zeros up to `all_rows`; columns a multiple of 16.
inline void turned(const BFloat16* from, int64_t from_row, int rows, int64_t panels, int64_t columns, BFloat16* to, int64_t apart,
                   int64_t width, int64_t tokens, int64_t all_rows) {
  for (int64_t r = 0; r < all_rows; r += 32)
    for (int64_t p = 0; p < panels; ++p) {
      BFloat16* at = to + p * apart + r;
      for (int64_t c = 0; c < columns; c += 16) turn(from + r * from_row + p * columns + c, from_row, rows - r, at + c * tokens, tokens);
      for (int64_t c = columns; c < width; ++c) std::fill(at + c * tokens, at + c * tokens + 32, BFloat16(0));
    }
}

}  // namespace block_sparse
#endif
