// The block structure as lists by row and by column, scratch memory that lives as long as its thread, and tile sizes.
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "pack.h"

namespace block_sparse {

struct Entry {
  int other, block;  // its column (in a list by row) or row (in a list by column), and its place in the weights
};

// Kept blocks of a mask [block_rows, block_columns], row-major.
struct Blocks {
  int block_rows, block_columns, count = 0;
  std::vector<std::vector<Entry>> by_row, by_column;

  Blocks(const bool* mask, int rows, int columns)
      : block_rows(rows), block_columns(columns), by_row(rows), by_column(columns) {
    for (int p = 0; p < rows; ++p)
      for (int q = 0; q < columns; ++q)
        if (mask[static_cast<int64_t>(p) * columns + q]) {
          by_row[p].push_back({q, count});
          by_column[q].push_back({p, count++});
        }
  }
};

// Grows and never shrinks: fresh pages on every call would cost as much as a small layer. Aligned to cache lines.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { std::free(memory_); }

  template <class T>
  T* get(int64_t count) {
    const size_t bytes = round_up(count * sizeof(T) + 64, 64);
    if (bytes > size_) {
      std::free(memory_);
      memory_ = std::aligned_alloc(64, bytes);
      size_ = memory_ ? bytes : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return static_cast<T*>(memory_);
  }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

// Tokens of a tile: its panels fill three quarters of the second-level cache, the blocks stream past them.
// A multiple of `rows`, and of 24, the rows of most tall tiles, where that is 4.
inline int tile_tokens(int64_t bytes_per_token, int rows) {
  static const int64_t cache = [] {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (found > 0) return static_cast<int64_t>(found);
#endif
    return int64_t{512} << 10;
  }();
  const int64_t step = rows == 4 ? 24 : rows;
  return static_cast<int>(std::clamp<int64_t>(cache * 3 / 4 / bytes_per_token / step * step, 72 / step * step, 192));
}

}  // namespace block_sparse
