// Packing: copies in which the inner kernel finds neighbours side by side, padded with zeros to whole registers.
//   plain panel    [rows, width]                  left factors, summed along the width; right ones in steps of one
//   paired panel   [rows / steps, width, steps]   factors summed along the rows: `steps` rows interleaved
// With steps = 1 (float32, float64) both are the same.
#pragma once
#include "lanes.h"

namespace block_sparse {

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// `count` numbers, padded with zeros to `width`. Whole cache lines are copied without a call.
template <class In, class S>
inline void line(const S* from, int64_t count, In* to, int64_t width) {
  int64_t c = 0;
  if constexpr (std::is_same_v<In, S>) {
    constexpr int64_t whole = 64 / sizeof(In);
    for (; c + whole <= count; c += whole) std::memcpy(to + c, from + c, 64);
  }
  for (; c < count; ++c) to[c] = static_cast<In>(from[c]);
  for (; c < width; ++c) to[c] = In(0);
}

// Rows of [rows, panels * columns] -> as many plain panels, `apart` numbers from one to the next, with zero rows up to
// `all_rows`. The rows are read from end to end: the processor fetches a stream ahead, but not pieces far apart.
template <class In, class S>
void plain(const S* from, int64_t from_row, int rows, int64_t panels, int64_t columns, In* to, int64_t apart, int64_t width,
           int64_t all_rows) {
  for (int r = 0; r < rows; ++r)
    for (int64_t p = 0; p < panels; ++p) line(from + r * from_row + p * columns, columns, to + p * apart + r * width, width);
  if (all_rows > rows)
    for (int64_t p = 0; p < panels; ++p) std::fill(to + p * apart + rows * width, to + p * apart + all_rows * width, In(0));
}

inline void interleave(const BFloat16* even, const BFloat16* odd, int count, BFloat16* to) {
  int c = 0;
#if defined(__AVX512BW__)
  alignas(64) static const auto order = [] {
    struct {
      uint16_t low[32], high[32];
    } o;
    for (int i = 0; i < 16; ++i) {
      o.low[2 * i] = i, o.low[2 * i + 1] = 32 + i;
      o.high[2 * i] = 16 + i, o.high[2 * i + 1] = 48 + i;
    }
    return o;
  }();
  const __m512i low = _mm512_loadu_si512(order.low), high = _mm512_loadu_si512(order.high);
  for (; c + 32 <= count; c += 32) {
    const __m512i e = _mm512_loadu_si512(even + c);
    const __m512i o = odd ? _mm512_loadu_si512(odd + c) : _mm512_setzero_si512();
    _mm512_storeu_si512(to + 2 * c, _mm512_permutex2var_epi16(e, low, o));
    _mm512_storeu_si512(to + 2 * c + 32, _mm512_permutex2var_epi16(e, high, o));
  }
#endif
  for (; c < count; ++c) to[2 * c] = even[c], to[2 * c + 1] = odd ? odd[c] : BFloat16(0);
}

// The same into paired panels of round_up(all_rows, steps) rows.
template <class L, class S>
void paired(const S* from, int64_t from_row, int rows, int64_t panels, int64_t columns, typename L::In* to, int64_t apart,
            int64_t width, int64_t all_rows) {
  using In = typename L::In;
  if constexpr (L::steps == 1) {
    plain<In>(from, from_row, rows, panels, columns, to, apart, width, all_rows);
  } else {
    for (int64_t r = 0; r < all_rows; r += 2)
      for (int64_t p = 0; p < panels; ++p) {
        In* at = to + p * apart + r * width;
        const S* even = from + r * from_row + p * columns;
        if (r < rows) interleave(even, r + 1 < rows ? even + from_row : nullptr, columns, at);
        std::fill(at + (r < rows ? 2 * columns : 0), at + 2 * width, In(0));
      }
  }
}

// The transpose of [rows, columns] -> paired panel [all / steps, width, steps] with all >= columns, width >= rows.
template <class L, class S>
void transposed(const S* from, int64_t from_row, int rows, int columns, typename L::In* to, int64_t width, int64_t all) {
  using In = typename L::In;
  if (width > rows || all > columns) std::fill(to, to + all * width, In(0));
  int r0 = 0;
#if defined(__AVX2__)
  // words of 32 bits: one float32, or two bfloat16 that stay together
  if constexpr (std::is_same_v<In, S> && sizeof(S) * L::steps == 4) {
    const int words = columns / L::steps;
    for (; r0 + 4 <= rows; r0 += 4) {
      int c = 0;
      for (; c + 4 <= words; c += 4) {
        __m128 q[4];
        for (int i = 0; i < 4; ++i) q[i] = _mm_loadu_ps(reinterpret_cast<const float*>(from + (r0 + i) * from_row) + c);
        _MM_TRANSPOSE4_PS(q[0], q[1], q[2], q[3]);
        for (int i = 0; i < 4; ++i) _mm_storeu_ps(reinterpret_cast<float*>(to) + (c + i) * width + r0, q[i]);
      }
      for (int j = c * L::steps; j < columns; ++j)
        for (int i = r0; i < r0 + 4; ++i)
          to[(j / L::steps) * width * L::steps + i * L::steps + j % L::steps] = from[i * from_row + j];
    }
  }
#endif
  for (int i = r0; i < rows; ++i)
    for (int j = 0; j < columns; ++j)
      to[(j / L::steps) * width * L::steps + i * L::steps + j % L::steps] = static_cast<In>(from[i * from_row + j]);
}

}  // namespace block_sparse
