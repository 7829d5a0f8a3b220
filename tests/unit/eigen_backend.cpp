// SPDX-License-Identifier: Apache-2.0
// EigenBackend against the reference: every optimizer, layout, side, shape and rank; bad gradients, whole models.
// also: optimised-sanitizers
#include <doctest/doctest.h>

#include "eigen_compare.hpp"

using namespace compare_backends;

TEST_CASE("float: every optimizer in every layout") {
  for (const Layout layout : support::all_layouts) {
    every_optimizer<float>({.rows = 21, .cols = 13, .rank = 3, .weight = layout, .gradient = layout}, 2);
    every_optimizer<float>({.rows = 9, .cols = 30, .rank = 4, .weight = layout, .gradient = Layout::row_major}, 2);
    every_optimizer<float>({.rows = 16, .cols = 16, .rank = 8, .weight = Layout::column_major, .gradient = layout}, 2);
  }
}

TEST_CASE("every side that a projection can remove") {
  for (const ProjType type : support::all_proj_types)
    for (const auto& [rows, cols] : {std::pair<Index, Index>(40, 12), {12, 40}, {20, 20}})
      for (const Layout layout : {Layout::row_major, Layout::column_major})
        every_optimizer<float>(
            {.rows = rows, .cols = cols, .rank = 4, .type = type, .weight = layout, .gradient = layout, .steps = 3}, 2);
}

TEST_CASE("shapes at the edges of tiles and of vector units") {
  // Tall and narrow, one channel less and more than whole tiles; two rows; runs of 256 and one off.
  for (const Index cols : {2, 7, 40}) {
    const Index tile = apollo::tile_channels(cols);
    for (const Index rows : {tile - 1, tile, tile + 1}) {
      const Setting s{.rows = rows, .cols = cols, .rank = 2, .steps = 2};
      Setting turned{.rows = cols, .cols = rows, .rank = 2, .steps = 2};
      turned.weight = Layout::row_major, turned.gradient = Layout::column_major;
      for (const Setting& each : {s, turned}) {
        CAPTURE(each.rows);
        CAPTURE(each.cols);
        const auto options = [&](auto o) {
          o.update_proj_gap = 1, o.eps = eps;
          return o;
        };
        compare<float, model::Rewrap<apollo::AdamW<>>::with>(each, apollo::AdamWOptions{.eps = eps});
        compare<float, model::Rewrap<apollo::Sgd<>>::with>(each, apollo::SgdOptions{});
        compare<float, model::Rewrap<model::StructuredAdamW<>>::with>(each, apollo::StructuredOptions{.eps = eps});
        compare<float, model::Rewrap<apollo::Apollo<>>::with>(each, options(apollo::ApolloOptions{.rank = 2}));
        using OfGaussian = apollo::Apollo<apollo::RandomProjection<apollo::Gaussian>>;
        compare<float, model::Rewrap<OfGaussian>::with>(each, options(apollo::ApolloOptions{.rank = 2}));
        compare<float, model::Rewrap<apollo::ApolloMini<>>::with>(each, options(apollo::ApolloMiniOptions{}));
        compare<float, model::Rewrap<apollo::GaLore<>>::with>(each, options(apollo::GaLoreOptions{.rank = 2}));
      }
    }
  }
  for (const Index cols : {255, 256, 257, 511, 513}) {
    const Setting s{.rows = 67, .cols = cols, .rank = 5, .steps = 2};
    every_optimizer<float>(s, 1);
  }
  for (const auto& [rows, cols] :
       {std::pair<Index, Index>(1, 1), {1, 300}, {300, 1}, {2, 300}, {300, 2}, {2, 2}, {3, 2}})
    for (const Layout layout : {Layout::row_major, Layout::column_major, Layout::gaps})
      every_optimizer<float>({.rows = rows, .cols = cols, .rank = 2, .weight = layout, .gradient = layout, .steps = 3},
                             2);
}

TEST_CASE("every rank from 1 to the side, in lanes of eight and not") {
  for (Index rank = 1; rank <= 24; ++rank)
    every_optimizer<float>({.rows = 70, .cols = 24, .rank = rank > 6 ? 6 : rank, .steps = 2}, 1);
  for (const Index rank : {1, 7, 8, 9, 15, 16, 17, 24, 32, 33, 40, 48}) {
    CAPTURE(rank);
    const Setting s{.rows = 70, .cols = 48, .rank = 6, .steps = 3};
    apollo::ApolloOptions o{.rank = rank, .update_proj_gap = 2, .eps = eps};
    o.allow_rank_1 = true;
    for (const auto how : {apollo::OnRefresh::keep, apollo::OnRefresh::rotate}) {
      o.on_refresh = how;
      compare<float, model::Rewrap<apollo::Apollo<>>::with>(s, o);
      compare<double, model::Rewrap<apollo::Apollo<>>::with>(s, o);
      using OfGaussian = apollo::Apollo<apollo::RandomProjection<apollo::Gaussian>>;
      compare<float, model::Rewrap<OfGaussian>::with>(s, o);
      using Three = apollo::Apollo<apollo::RandomProjection<apollo::SparseSigns<3>>>;
      if (rank >= 3) compare<float, model::Rewrap<Three>::with>(s, o);
      using Random = apollo::StructuredOptimizer<apollo::RandomProjection<apollo::SparseSign>, apollo::AdamMoments<>>;
      apollo::StructuredOptions lifted{.rank = rank, .update_proj_gap = 2};
      lifted.eps = eps;
      compare<float, model::Rewrap<Random>::with>(s, lifted);
    }
  }
}

TEST_CASE("singular vectors of every rank span the same space") {
  for (const Index rank : {1, 2, 3, 5, 8, 12}) {
    CAPTURE(rank);
    for (const auto svd : {apollo::SvdMethod::subspace, apollo::SvdMethod::exact})
      for (const ProjType type : support::all_proj_types) {
        apollo::GaLoreOptions o{.rank = rank, .update_proj_gap = 2, .proj_type = type, .svd = svd, .eps = eps};
        const Setting s{.rows = 33, .cols = 18, .rank = rank, .steps = 3};
        compare<double, model::Rewrap<apollo::GaLore<>>::with>(s, o);
        if (rank <= 5) compare<float, model::Rewrap<apollo::GaLore<>>::with>(s, o);
      }
  }
}

TEST_CASE("a gradient factor, coupled decay and either order") {
  using T = float;
  const Matrix start = support::uniform_matrix(30, 20, 7);
  const auto both = [&](auto tag, auto options) {
    using Member = typename decltype(tag)::type;
    using Plain = typename model::Rewrap<Member>::template with<T, Reference>;
    using Fast = typename model::Rewrap<Member>::template with<T, EigenBackend>;
    one_basis_if_kept<Plain>(options, 4);
    support::Tensor<T> a(start, Layout::row_major), b(start, Layout::row_major), g(start, Layout::column_major);
    Plain plain(a.view, options);
    Fast fast(b.view, options);
    plain.set_gradient_scale(1 / 3.0), fast.set_gradient_scale(1 / 3.0);
    for (int t = 1; t <= 4; ++t) {
      g.set(gradient(30, 20, 4, t));
      const auto expected = plain.step(a.view, g.view);
      const auto report = fast.step(b.view, g.view);
      CHECK(std::fabs(report.gradient_norm - expected.gradient_norm) <= 1e-5 * expected.gradient_norm);
    }
    CHECK(support::relative_error(b.get(), a.get()) <= tolerance<T>(4));
  };
  std::string optimizer;
  CAPTURE(optimizer);
  const auto run = [&](const char* what, auto tag, auto options) {
    optimizer = what;
    both(tag, options);
    if constexpr (requires { options.order; }) {
      options.order = options.order == apollo::Order::torch ? apollo::Order::huggingface : apollo::Order::torch;
      options.weight_decay = 0.3;
      both(tag, options);
    }
  };
  model::for_each_dense<>(run, eps);
  model::for_each_projected<>(4, 2, ProjType::std, run, eps);
}

TEST_CASE("bad gradients are seen by every pass, wherever they are") {
  std::string name;
  CAPTURE(name);
  const auto check_skipped = [](const apollo::TensorReport& report) {
    CHECK(report.reason == apollo::Skip::not_finite);
    CHECK_FALSE(report.stepped);
  };
  const auto run = [&](const char* what, auto tag, const auto& options) {
    using Member = typename decltype(tag)::type;
    using Fast = typename model::Rewrap<Member>::template with<float, EigenBackend>;
    name = what;
    for (const Layout layout : {Layout::row_major, Layout::column_major, Layout::gaps}) {
      Leaf<float> leaf("leaf", 37, 29, layout);
      Fast optimizer(leaf.w.view, options);
      leaf.feed(1);
      REQUIRE(optimizer.step(leaf.w.view, leaf.g.view).stepped);
      const auto weights = leaf.w.memory;
      const auto state = support::state_of(optimizer).bytes;
      std::uint64_t at = 0;
      for (const float bad : {INFINITY, -INFINITY, NAN, INFINITY, NAN, -NAN}) {
        at = support::mix(at + 1);
        const auto i = static_cast<Index>(at % 37), j = static_cast<Index>(at / 64 % 29);
        leaf.feed(2);
        leaf.g.view(i, j) = bad;
        check_skipped(optimizer.step(leaf.w.view, leaf.g.view));
        CHECK(optimizer.steps() == 1);
        CHECK(model::same_bits(leaf.w.memory, weights));
        CHECK(model::same_bits(support::state_of(optimizer).bytes, state));
      }
    }
  };
  model::for_each_dense<>(run);
  model::for_each_projected<>(3, 1, ProjType::std, run);
}

TEST_CASE("the backend refuses what it cannot be") {
#if defined(__cpp_exceptions)
  const auto message = [](auto&& call) { return model::message_of<std::invalid_argument>(call); };
  CHECK(model::mentions(message([] { EigenBackend(0); }), "threads = 0", "at least 1"));
  CHECK(model::mentions(message([] { EigenBackend(-2); }), "threads = -2", "at least 1"));
  CHECK(model::mentions(message([] { EigenBackend(apollo::Executor{}); }), "run function"));
#endif
}

TEST_CASE("a whole model on Eigen's backend") {
  apollo::eigen::Optimizer fast(EigenBackend(2));
  apollo::Optimizer plain;
  Leaf<float> a1("a", 30, 20), a2("a", 30, 20), b1("b", 12, 1), b2("b", 12, 1);
  Leaf<double> c1("c", 9, 14), c2("c", 9, 14);
  const auto set_up = [](auto& optimizer, auto& a, auto& b, auto& c) {
    const auto low = optimizer.add_group(apollo::ApolloOptions{.rank = 8, .update_proj_gap = 2, .eps = eps});
    const auto full = optimizer.add_group(apollo::AdamWOptions{.eps = eps});
    optimizer.add(low, "a", a.w.view, a.g.view);
    optimizer.add(full, "b", b.w.view, b.g.view);
    optimizer.add(low, "c", c.w.view, c.g.view);
    optimizer.clip_global_norm(1);
  };
  set_up(fast, a1, b1, c1), set_up(plain, a2, b2, c2);
  for (int t = 1; t <= 5; ++t) {
    a1.feed(t), a2.feed(t), b1.feed(t), b2.feed(t), c1.feed(t), c2.feed(t);
    const auto report = fast.step(), expected = plain.step();
    CHECK(std::fabs(report.global_norm - expected.global_norm) <= 1e-6 * expected.global_norm);
    CHECK(report.stepped == 3);
  }
  CHECK(support::relative_error(a1.w.get(), a2.w.get()) <= tolerance<float>(5));
  CHECK(support::relative_error(b1.w.get(), b2.w.get()) <= tolerance<float>(5));
  CHECK(support::relative_error(c1.w.get(), c2.w.get()) <= 1e-6);
  CHECK(fast.state_bytes() == plain.state_bytes());
  CHECK(fast.workspace_bytes() > 0);
}

TEST_CASE("aliases of the namespace and Eigen's own matrices") {
  Eigen::MatrixXf w = Eigen::MatrixXf::Constant(12, 7, 1), g = Eigen::MatrixXf::Constant(12, 7, 0.5f);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = w;
  apollo::eigen::AdamW<> adamw(w, {.lr = 0.1});
  apollo::eigen::AdamW<> of_rows(rows, {.lr = 0.1});
  CHECK(adamw.step(w, g).stepped);
  CHECK(of_rows.step(rows, g).stepped);
  CHECK((w - rows).cwiseAbs().maxCoeff() <= 0);
  CHECK(w(3, 3) < 1);
  apollo::eigen::Apollo<> a(w, {.rank = 3});
  CHECK(a.step(w.transpose().transpose(), g).stepped);
  Eigen::MatrixXd wd = w.cast<double>(), gd = g.cast<double>();
  apollo::eigen::GaLore<double> galore(wd.topRows(8), {.rank = 2});
  const Eigen::MatrixXd before = wd;
  CHECK(galore.step(wd.topRows(8), gd.topRows(8)).stepped);
  CHECK((wd - before).topRows(8).norm() > 0);
  CHECK((wd - before).bottomRows(4).norm() <= 0);
  apollo::eigen::ApolloMini<> mini(w);
  apollo::eigen::Sgd<> sgd(w);
  apollo::eigen::SgdMomentum<> momentum(w);
  CHECK(mini.step(w, g).stepped);
  CHECK(sgd.step(w, g).stepped);
  CHECK(momentum.step(w, g).stepped);
  apollo::eigen::StructuredOptimizer<apollo::AdamMoments<>, apollo::ChannelScaling> own(w);
  CHECK(own.step(w, g).stepped);
}
