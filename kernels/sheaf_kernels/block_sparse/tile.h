// The inner kernel: a tile of sums, M rows by N registers, over a list of segments of the summed axis.
// Every product of this operation is such a list: a row of blocks, a column of blocks, or the tokens of one tile. A sum stays
// in its registers from the first segment to the last, so blocks cost no traffic of their own and bfloat16 rounds once.
#pragma once
#include <vector>

#include "lanes.h"

namespace block_sparse {

// `steps` multiply-adds: left factor of row m at step s is a[m * row + s * step], the right one b[s * width ...].
template <class L>
struct Segment {
  const typename L::In* a;
  const typename L::In* b;
  int64_t row, step, width;
  int steps;
};

template <class L>
using Segments = std::vector<Segment<L>>;

// Sums start from zero, from one row for all (a bias), or from a matrix.
template <class L>
struct Start {
  const typename L::Acc* from = nullptr;
  int64_t row = 0;
};

template <class L, int M, int N>
struct Tile {
  using In = typename L::In;
  using V = typename L::V;

  // `at` is the tile's first row and column within every segment; writes `rows` rows of `columns` numbers.
  // Not inlined: it needs every register for itself.
  template <class Out>
  __attribute__((noinline)) static void run(const Segments<L>& segments, int row0, int column0, Start<L> start, Out* to, int64_t to_row, int rows,
                  int columns) {
    // the lines that the sums will go to are fetched for writing while the sums are made
    if (!start.from || start.row == 0)
#pragma GCC unroll 24
      for (int m = 0; m < M; ++m)
        if (m < rows)
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) __builtin_prefetch(to + m * to_row + n * L::lanes, 1);
    V sum[M][N];
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n)
        sum[m][n] = start.from && m < rows ? L::load(start.from + (row0 + m) * start.row + column0 + n * L::lanes) : L::zero();
    for (const Segment<L>& s : segments) {
      const int64_t row = s.row, step = s.step, width = s.width;
      // four rows a pointer: their distances fit the addressing modes, and few registers hold all rows
      const In* a[(M + 3) / 4];
#pragma GCC unroll 6
      for (int g = 0; g < (M + 3) / 4; ++g) a[g] = s.a + (row0 + 4 * g) * row;
      const In* b = s.b + column0 * L::steps;
      for (int k = 0; k < s.steps; ++k) {
        decltype(L::row(b)) right[N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) right[n] = L::row(b + n * L::lanes * L::steps);
#pragma GCC unroll 24
        for (int m = 0; m < M; ++m) {
          const In* left = a[m / 4] + (m % 4) * row;
          if constexpr (N == 1) {
            sum[m][0] = L::multiply_add_both(left, right[0], sum[m][0]);
          } else {
            const auto both = L::both(left);
#pragma GCC unroll 2
            for (int n = 0; n < N; ++n) sum[m][n] = L::multiply_add(both, right[n], sum[m][n]);
          }
        }
#pragma GCC unroll 6
        for (int g = 0; g < (M + 3) / 4; ++g) a[g] += step;
        b += width;
      }
    }
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m)
      if (m < rows)
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n)
          if (columns > n * L::lanes) put<L>(to + m * to_row + n * L::lanes, sum[m][n], columns - n * L::lanes);
  }
};

// All rows of one strip of columns: tall tiles, then tiles of four rows, of which some may lie beyond the end.
template <class L, int N, int M, class Out>
void strip(const Segments<L>& segments, int rows, int column0, int columns, Start<L> start, Out* to, int64_t to_row) {
  int m = 0;
  for (; m + M <= rows; m += M) Tile<L, M, N>::run(segments, m, column0, start, to + m * to_row, to_row, M, columns);
  for (; m < rows; m += 4)
    Tile<L, 4, N>::run(segments, m, column0, start, to + m * to_row, to_row, std::min(4, rows - m), columns);
}

// How a number type's products are made and what they ask of panels; amx.h has another way for bfloat16.
template <class L>
struct Products {
  static constexpr int panel = std::max(4, L::lanes), depth = L::steps, rows = 4;  // widths, summed axes and rows are padded to these
  static constexpr bool turns = false;  // whether left factors summed along their rows are turned first
  struct Registers {};                  // held by a thread while it computes

  // to [rows, columns] = start + sum over segments. `tall`: many rows (tokens) rather than a square block.
  template <bool tall, class Out>
  static void run(const Segments<L>& segments, int rows, int columns, Start<L> start, Out* to, int64_t to_row) {
    constexpr int two = tall ? L::tall : L::square, one = tall ? L::tall1 : L::square1;
    int n = 0;
    for (; n + L::lanes < columns; n += 2 * L::lanes) strip<L, 2, two>(segments, rows, n, columns - n, start, to + n, to_row);
    if (n < columns) strip<L, 1, one>(segments, rows, n, columns - n, start, to + n, to_row);
  }
};

}  // namespace block_sparse
