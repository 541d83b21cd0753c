// Block-sparse linear layer on the CPU: sheaf::block_sparse_forward and _backward, whose schemas are in __init__.py.
//   lanes.h  one processor register per number type    tile.h    the inner kernel    amx.h  the same on tile registers
//   pack.h   copies the inner kernel can stream         blocks.h  lists of blocks, scratch memory
// Both passes go over the tokens in tiles. A tile's activations are packed once into the second-level cache and serve every
// product: the sparse one, the low-rank one, and in the backward pass the gradients of input and weights alike.
// Against one product after the other this saves reading the activations again; against a 2-loop GEMM per block it keeps sums
// in registers over a whole row of blocks. Threads take runs of tiles; weight gradients are added up in a fixed order.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "amx.h"
#include "blocks.h"
#include "tile.h"

namespace {

using at::Tensor;
using std::optional;
using namespace block_sparse;

template <class L>
struct Sizes {
  using P = Products<L>;
  int64_t tokens, block, rank;
  int64_t width, rank_width;  // block and rank, padded to whole registers
  int64_t depth, rank_depth;  // block and rank, padded to whole steps
  Sizes(int64_t t, int64_t b, int64_t r)
      : tokens(t), block(b), rank(r), width(round_up(b, P::panel)), rank_width(round_up(r, P::panel)), depth(round_up(b, P::depth)),
        rank_depth(round_up(r, P::depth)) {}
  int64_t left() const { return width * depth; }  // numbers of a packed block
};

template <class S>
const S* data(const optional<Tensor>& t) {
  return t && t->numel() ? t->const_data_ptr<S>() : nullptr;
}

// A panel of the tile's tokens as left factor, summed along its width.
template <class L>
Segment<L> across(const typename L::In* panel, int64_t width, const typename L::In* right, int64_t right_width, int64_t depth) {
  return {panel, right, width, L::steps, right_width * L::steps, static_cast<int>(depth / L::steps)};
}

// Two panels of the tile, summed along its tokens. `tile`: tokens that a turned left panel has room for.
template <class L>
Segment<L> along(const typename L::In* left, int64_t width, const typename L::In* right, int64_t right_width, int64_t tokens, int64_t tile) {
  const int steps = static_cast<int>(tokens / L::steps);
  if constexpr (Products<L>::turns) return {left, right, tile, L::steps, right_width * L::steps, steps};
  return {left, right, L::steps, width * L::steps, right_width * L::steps, steps};
}

template <class L, class S>
void forward_(const S* x, const S* w, const Blocks& blocks, const S* bias, const S* u, const S* v, Sizes<L> n, S* y, S* z) {
  using P = Products<L>;
  using In = typename L::In;
  using Acc = typename L::Acc;
  const int64_t b = n.block, r = n.rank, in = blocks.block_columns * b, out = blocks.block_rows * b;
  static thread_local Scratch weights, biases;
  In* packed = weights.get<In>(blocks.count * n.left() + blocks.block_columns * n.depth * n.rank_width +
                               blocks.block_rows * n.rank_depth * n.width);
  In* packed_v = packed + blocks.count * n.left();
  In* packed_u = packed_v + blocks.block_columns * n.depth * n.rank_width;
  at::parallel_for(0, blocks.count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) transposed<L>(w + k * b * b, b, b, b, packed + k * n.left(), n.width, n.depth);
  });
  if (r) {
    for (int64_t q = 0; q < blocks.block_columns; ++q)
      paired<L>(v + q * b * r, r, b, 1, r, packed_v + q * n.depth * n.rank_width, 0, n.rank_width, n.depth);
    for (int64_t p = 0; p < blocks.block_rows; ++p)
      transposed<L>(u + p * b * r, r, b, r, packed_u + p * n.rank_depth * n.width, n.width, n.rank_depth);
  }
  Acc* starts = nullptr;
  if (bias) {
    starts = biases.get<Acc>(blocks.block_rows * n.width);
    plain<Acc>(bias, 0, 1, blocks.block_rows, b, starts, n.width, n.width, 1);
  }
  const int64_t tile = tile_tokens(blocks.block_columns * n.width * sizeof(In), P::rows);
  at::parallel_for(0, (n.tokens + tile - 1) / tile, 1, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    const typename P::Registers registers;
    In* panels = scratch.get<In>(tile * (blocks.block_columns * n.width + n.rank_width));
    In* low = panels + tile * blocks.block_columns * n.width;
    Segments<L> segments;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * tile, rows = std::min(tile, n.tokens - first), all = round_up(rows, P::rows);
      plain<In>(x + first * in, in, rows, blocks.block_columns, b, panels, tile * n.width, n.width, all);
      if (r) {
        segments.clear();
        for (int64_t q = 0; q < blocks.block_columns; ++q)
          segments.push_back(across<L>(panels + q * tile * n.width, n.width, packed_v + q * n.depth * n.rank_width,
                                       n.rank_width, n.depth));
        P::template run<true>(segments, rows, r, Start<L>{}, z + first * r, r);
        plain<In>(z + first * r, r, rows, 1, r, low, 0, n.rank_width, all);
      }
      for (int64_t p = 0; p < blocks.block_rows; ++p) {
        segments.clear();
        for (const Entry& e : blocks.by_row[p])
          segments.push_back(across<L>(panels + e.other * tile * n.width, n.width, packed + e.block * n.left(), n.width, n.depth));
        if (r) segments.push_back(across<L>(low, n.rank_width, packed_u + p * n.rank_depth * n.width, n.width, n.rank_depth));
        P::template run<true>(segments, rows, b, Start<L>{starts ? starts + p * n.width : nullptr, 0}, y + first * out + p * b, out);
      }
    }
  });
}

// Sums of weight gradients: [count, b, width] of blocks, then [out, rank_width] and [in, rank_width] of u and v.
template <class Acc>
struct Gradients {
  Acc *w, *u, *v;
  int64_t width, rank_width;
};

template <class L, class S>
struct Backward {
  using P = Products<L>;
  using In = typename L::In;
  using Acc = typename L::Acc;
  const S *dy, *x, *z;
  const Blocks& blocks;
  const Sizes<L> n;
  const In *packed, *packed_u, *packed_v;
  S* dx;
  int64_t tile;

  int64_t scratch_numbers() const { return tile * (n.width * (blocks.block_rows + blocks.block_columns) + 4 * n.rank_width); }

  // Tokens [first, first + rows): writes dx, adds to the sums of weight gradients (`fresh`: begins them). A panel that is needed
  // in two forms is packed twice into the same place: the smaller the panels, the more tokens a tile has and the less often
  // the sums, which seldom fit the cache beside them, are read and written.
  void tokens(int64_t first, int64_t rows, bool fresh, const Gradients<Acc>& sums, In* scratch, Segments<L>& segments) const {
    const int64_t b = n.block, r = n.rank, in = blocks.block_columns * b, out = blocks.block_rows * b;
    const int64_t all = round_up(rows, P::rows), panel = tile * n.width;
    In *dy_panels = scratch, *x_panels = dy_panels + panel * blocks.block_rows, *z_along = x_panels + panel * blocks.block_columns;
    In *dz_across = z_along + tile * n.rank_width, *dz_along = L::steps > 1 ? dz_across + tile * n.rank_width : dz_across;
    plain<In>(dy + first * out, out, rows, blocks.block_rows, b, dy_panels, panel, n.width, all);
    if (r) {
      static thread_local Scratch rounded;
      S* dz = rounded.get<S>(tile * r);
      segments.clear();
      for (int64_t p = 0; p < blocks.block_rows; ++p)
        segments.push_back(across<L>(dy_panels + p * panel, n.width, packed_u + p * n.depth * n.rank_width, n.rank_width, n.depth));
      P::template run<true>(segments, rows, r, Start<L>{}, dz, r);
      plain<In>(dz, r, rows, 1, r, dz_across, 0, n.rank_width, all);
      if (L::steps > 1) paired<L>(dz, r, rows, 1, r, dz_along, 0, n.rank_width, all);
      paired<L>(z + first * r, r, rows, 1, r, z_along, 0, n.rank_width, all);
    }
    if (dx) {
      for (int64_t q = 0; q < blocks.block_columns; ++q) {
        segments.clear();
        for (const Entry& e : blocks.by_column[q])
          segments.push_back(across<L>(dy_panels + e.other * panel, n.width, packed + e.block * n.left(), n.width, n.depth));
        if (r) segments.push_back(across<L>(dz_across, n.rank_width, packed_v + q * n.rank_depth * n.width, n.width, n.rank_depth));
        P::template run<true>(segments, rows, b, Start<L>{}, dx + first * in + q * b, in);
      }
    }
    left_along(dy + first * out, out, rows, blocks.block_rows, dy_panels, all);
    paired<L>(x + first * in, in, rows, blocks.block_columns, b, x_panels, panel, n.width, all);
    const auto add = [&](const In* left, const In* right, int64_t width, Acc* to, int64_t to_row, int64_t columns) {
      segments.assign(1, along<L>(left, n.width, right, width, all, tile));
      P::template run<false>(segments, b, columns, Start<L>{fresh ? nullptr : to, to_row}, to, to_row);
    };
    for (int64_t p = 0; p < blocks.block_rows; ++p) {
      for (const Entry& e : blocks.by_row[p])
        add(dy_panels + p * panel, x_panels + e.other * panel, n.width, sums.w + e.block * b * sums.width, sums.width, sums.width);
      if (r) add(dy_panels + p * panel, z_along, n.rank_width, sums.u + p * b * sums.rank_width, sums.rank_width, sums.rank_width);
    }
    if (r) {
      if (P::turns) left_along(x + first * in, in, rows, blocks.block_columns, x_panels, all);
      for (int64_t q = 0; q < blocks.block_columns; ++q)
        add(x_panels + q * panel, dz_along, n.rank_width, sums.v + q * b * sums.rank_width, sums.rank_width, sums.rank_width);
    }
  }

  // Plain panels become left factors of sums along the tokens; with one step they are that already.
  void left_along(const S* from, int64_t from_row, int64_t rows, int64_t panels, In* to, int64_t all) const {
    if constexpr (P::turns)
      turned(from, from_row, rows, panels, n.block, to, tile * n.width, n.width, tile, all);
    else if constexpr (L::steps > 1)
      paired<L>(from, from_row, rows, panels, n.block, to, tile * n.width, n.width, all);
  }
};

// Sums of all threads, added in their order and cut to [rows, columns].
template <class L, class S>
void collect(const typename L::Acc* sums, int64_t threads, int64_t apart, int64_t rows, int64_t columns, int64_t width, S* to) {
  at::parallel_for(0, rows, 256, [&](int64_t begin, int64_t end) {
    std::vector<typename L::Acc> total(width);  // padded, so that whole registers can be read
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(sums + i * width, width, total.data());
      for (int64_t t = 1; t < threads; ++t)
        for (int64_t j = 0; j < width; ++j) total[j] += sums[t * apart + i * width + j];
      for (int64_t j = 0; j < columns; j += L::lanes) put<L>(to + i * columns + j, L::load(&total[j]), static_cast<int>(columns - j));
    }
  });
}

template <class L, class S>
void backward_(const S* dy, const S* x, const S* z, const S* w, const Blocks& blocks, const S* u, const S* v, Sizes<L> n,
               S* dx, S* dw, S* du, S* dv) {
  using P = Products<L>;
  using In = typename L::In;
  using Acc = typename L::Acc;
  const int64_t b = n.block, r = n.rank;
  static thread_local Scratch weights, totals;
  In* packed = weights.get<In>(blocks.count * n.left() + blocks.block_rows * n.depth * n.rank_width +
                               blocks.block_columns * n.rank_depth * n.width);
  In* packed_u = packed + blocks.count * n.left();
  In* packed_v = packed_u + blocks.block_rows * n.depth * n.rank_width;
  const In* right = packed;
  bool direct = false;
  if constexpr (L::steps == 1 && std::is_same_v<In, S>) {
    direct = b == n.width;
    if (direct) right = w;  // already as the inner kernel wants them
  }
  if (!direct && dx)
    at::parallel_for(0, blocks.count, 64, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) paired<L>(w + k * b * b, b, b, 1, b, packed + k * n.left(), 0, n.width, n.depth);
    });
  if (r) {
    for (int64_t p = 0; p < blocks.block_rows; ++p)
      paired<L>(u + p * b * r, r, b, 1, r, packed_u + p * n.depth * n.rank_width, 0, n.rank_width, n.depth);
    for (int64_t q = 0; q < blocks.block_columns; ++q)
      transposed<L>(v + q * b * r, r, b, r, packed_v + q * n.rank_depth * n.width, n.width, n.rank_depth);
  }
  Backward<L, S> pass{dy, x, z, blocks, n, right, packed_u, packed_v, dx, 0};
  pass.tile = tile_tokens((blocks.block_rows + blocks.block_columns) * n.width * sizeof(In), P::rows);
  const int64_t tiles = (n.tokens + pass.tile - 1) / pass.tile;
  const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), tiles));
  const int64_t size_w = blocks.count * b * n.width, size_u = blocks.block_rows * b * n.rank_width;
  const int64_t apart = size_w + size_u + blocks.block_columns * b * n.rank_width;
  Acc* sums = totals.get<Acc>(threads * apart);
  if (!tiles) std::fill(sums, sums + apart, Acc(0));
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    const typename P::Registers registers;
    Segments<L> segments;
    for (int64_t t = begin; t < end; ++t) {
      const Gradients<Acc> mine{sums + t * apart, sums + t * apart + size_w, sums + t * apart + size_w + size_u, n.width,
                                n.rank_width};
      const int64_t from = tiles * t / threads, until = tiles * (t + 1) / threads;
      for (int64_t i = from; i < until; ++i)
        pass.tokens(i * pass.tile, std::min(pass.tile, n.tokens - i * pass.tile), i == from, mine,
                    scratch.get<In>(pass.scratch_numbers()), segments);
    }
  });
  collect<L>(sums, threads, apart, blocks.count * b, b, n.width, dw);
  if (r) {
    collect<L>(sums + size_w, threads, apart, blocks.block_rows * b, r, n.rank_width, du);
    collect<L>(sums + size_w + size_u, threads, apart, blocks.block_columns * b, r, n.rank_width, dv);
  }
}

// Calls run(number, lanes) with a number of the tensors' type and the lanes that compute with it.
template <class F>
void by_type(const Tensor& x, int64_t block, F run) {
  switch (x.scalar_type()) {
    case at::kFloat: return run(float{}, F32{});
    case at::kDouble: return run(double{}, F64{});
    case at::kBFloat16:
#ifdef BLOCK_SPARSE_AMX
      if (block % 16 == 0 && amx()) return run(BFloat16{}, Amx{});
#endif
      return run(BFloat16{}, BF16{});
    default: TORCH_CHECK_VALUE(false, "block_sparse takes float32, float64 or bfloat16; got ", x.scalar_type());
  }
}

Blocks blocks_of(const Tensor& mask) {
  return Blocks(mask.const_data_ptr<bool>(), static_cast<int>(mask.size(0)), static_cast<int>(mask.size(1)));
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& w, const Tensor& mask, const optional<Tensor>& bias,
                                   const optional<Tensor>& u, const optional<Tensor>& v) {
  const Blocks blocks = blocks_of(mask);
  const int64_t tokens = x.size(0), block = w.size(1), rank = u ? u->size(1) : 0;
  Tensor y = at::empty({tokens, mask.size(0) * block}, x.options()), z = at::empty({tokens, rank}, x.options());
  by_type(x, block, [&](auto number, auto lanes) {
    using S = decltype(number);
    forward_(x.const_data_ptr<S>(), w.const_data_ptr<S>(), blocks, data<S>(bias), data<S>(u), data<S>(v),
                Sizes<decltype(lanes)>(tokens, block, rank), y.mutable_data_ptr<S>(), z.mutable_data_ptr<S>());
  });
  return {y, z};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& dy, const Tensor& x, const Tensor& z, const Tensor& w,
                                                    const Tensor& mask, const optional<Tensor>& u, const optional<Tensor>& v,
                                                    bool wants_dx) {
  const Blocks blocks = blocks_of(mask);
  const int64_t rank = u ? u->size(1) : 0;
  const auto like = [&](const optional<Tensor>& t) { return t ? at::empty(t->sizes(), x.options()) : at::empty({0}, x.options()); };
  Tensor dx = wants_dx ? at::empty(x.sizes(), x.options()) : at::empty({0}, x.options());
  Tensor dw = at::empty(w.sizes(), w.options()), du = like(u), dv = like(v);
  by_type(x, w.size(1), [&](auto number, auto lanes) {
    using S = decltype(number);
    backward_(dy.const_data_ptr<S>(), x.const_data_ptr<S>(), z.const_data_ptr<S>(), w.const_data_ptr<S>(), blocks, data<S>(u),
                 data<S>(v), Sizes<decltype(lanes)>(x.size(0), w.size(1), rank), wants_dx ? dx.mutable_data_ptr<S>() : nullptr,
                 dw.mutable_data_ptr<S>(), rank ? du.mutable_data_ptr<S>() : nullptr, rank ? dv.mutable_data_ptr<S>() : nullptr);
  });
  return {dx, dw, du, dv};
}

TORCH_LIBRARY_IMPL(sheaf, CPU, m) {
  m.impl("block_sparse_forward", forward);
  m.impl("block_sparse_backward", backward);
}

}  // namespace
