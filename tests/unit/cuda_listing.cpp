// SPDX-License-Identifier: Apache-2.0
// Every kernel that the headers have is run by the emulator: one that nobody emulates would be one that nobody tests.
// not: optimised
#include <filesystem>
#include <fstream>
#include <regex>
#include <type_traits>

#include "cuda_model.hpp"

using namespace emulated;
using apollo::RandomProjection;

namespace {

/// What `pattern` finds in the headers of apollo::cuda: its first group, as often as it stands there, comments left out.
std::multiset<std::string> in_headers(const std::string& pattern) {
  std::multiset<std::string> found;
  const std::regex expression(pattern);
  const std::string folder = std::string(APOLLO_SOURCE_DIR) + "/backends/cuda/include/apollo";
  for (const auto& file : std::filesystem::recursive_directory_iterator(folder)) {
    if (file.path().extension() != ".hpp") continue;
    std::ifstream stream(file.path());
    for (std::string line; std::getline(stream, line);) {
      line = line.substr(0, line.find("//"));
      for (std::sregex_iterator at(line.begin(), line.end(), expression), end; at != end; ++at)
        found.insert((*at)[1].str());
    }
  }
  return found;
}

}  // namespace

TEST_CASE("every kernel is emulated, and there is one entry that runs them all") {
  CHECK(in_headers("(__global__)").size() == 1);
  CHECK(in_headers("(<<<)").size() == 1);
  const std::multiset<std::string> named = in_headers("kernel = \"([A-Za-z0-9]+)\"");
  const std::set<std::string> kernels(named.begin(), named.end());
  CHECK(kernels.size() == named.size());
  CHECK(kernels.size() >= 10);

  const std::vector<Leaf> leaves = {{30, 20}, {20, 30}, {9, 1}};
  std::set<std::string> launched;
  const auto take = [&]<class Member>(std::type_identity<Member>, const std::vector<Leaf>& tensors,
                                      const typename Member::Options& options, int steps, std::optional<Math> math = {},
                                      double clip = 0) {
    const Result result = run<Member, float, float>(tensors, options, steps, {}, math, clip);
    launched.insert(result.kernels.begin(), result.kernels.end());
    const Result other = run<Member, float, float>(tensors, options, steps, {.unwritten = 0x7f}, math, clip);
    CHECK(same_bits(result, other));  // so nothing was read before it was written
  };
  take(std::type_identity<apollo::AdamW<>>(), leaves, {}, 1, {}, 1);
  take(std::type_identity<apollo::ApolloMini<>>(), leaves, {}, 1);
  take(std::type_identity<apollo::Apollo<>>(), leaves, {.rank = 8}, 1);
  take(std::type_identity<apollo::Flora<>>(), leaves, {.rank = 8}, 1);
  take(std::type_identity<apollo::Flora<>>(), {{40, 33}}, {.rank = 33}, 1, Math::fp32);
  take(std::type_identity<apollo::Flora<RandomProjection<apollo::SparseSign>>>(), leaves, {.rank = 8}, 1);
  take(std::type_identity<apollo::Flora<apollo::MeanMoments<apollo::Int4>>>(), leaves, {.rank = 8}, 1);
  take(std::type_identity<apollo::Fira<>>(), leaves,
       {.rank = 8, .update_proj_gap = 1, .on_refresh = apollo::OnRefresh::rotate}, 2);
  take(std::type_identity<apollo::GaLore<>>(), {{30, 20}}, {.rank = 20, .svd = apollo::SvdMethod::exact}, 1);
  take(std::type_identity<apollo::QGaLore<apollo::AdamMoments<>>>(), {{30, 20}}, {.rank = 4}, 1);
  take(std::type_identity<apollo::GaLoreAdafactor<>>(), leaves,
       {.rank = 4, .update_proj_gap = 1, .on_refresh = apollo::OnRefresh::rotate}, 2);
  take(std::type_identity<apollo::AdamMini<>>(), leaves, {}, 1);
  take(std::type_identity<apollo::StructuredAdamW<>>(), leaves, {}, 1);
  EmulatedOptimizer sums;
  Array<float> array(sums.device(), Matrix(30, 20, 1.0));
  sums.add(sums.add_group(apollo::FloraOptions{.rank = 8}), "flora", array.view(), array.view());
  sums.add(sums.add_group(apollo::AdamWOptions{}), "adamw", array.view(), array.view());
  sums.accumulate();
  sums.discard_accumulated();
  const std::set<std::string> of_sums = sums.device().launched();
  launched.insert(of_sums.begin(), of_sums.end());
  for (const std::string& kernel : kernels) {
    CAPTURE(kernel);
    CHECK(launched.count(kernel) == 1);
  }
  CHECK(launched == kernels);
}

namespace {

using namespace apollo;

/// Whether kernels step it; what they do not step is refused here, with the reason that users would see.
template <class Projection, class Granularity, class... Moments>
constexpr bool stepped() {
  const auto one = []<class M>() {
    using Policies = PolicySet<Projection, Granularity, M, NormGrowthLimiter, StochasticWeights>;
    using Is = cuda::Composition<Policies>;
    return Policies::one_pass || Is::projected || Is::by_channel || Is::dense_factors;
  };
  return (one.template operator()<Moments>() && ...);
}
template <class Projection>
constexpr bool projections_are_stepped() {
  using Half = AdamMoments<bfloat16>;
  return stepped<Projection, ElementScaling, NoMoments, MomentumMoments<>, MeanMoments<>, Half, AdafactorMoments>() &&
         stepped<Projection, ChannelScaling, NoMoments, MomentumMoments<>, MeanMoments<>, Half>() &&
         stepped<Projection, TensorScaling, NoMoments, MomentumMoments<>, MeanMoments<>, Half>();
}
template <class... Sketches>
constexpr bool sketches_are_stepped() {
  return (projections_are_stepped<RandomProjection<Sketches>>() && ...);
}
template <class... Sketches>
constexpr bool scaled_sketches_are_stepped() {
  return (stepped<RandomProjection<Sketches>, ElementScaling, FactoredMeanMoments<>>() && ...);
}

// What docs/cuda.md says is stepped, of all that PolicySet accepts.
static_assert(sketches_are_stepped<Gaussian, Rademacher, SparseSign, HadamardTransform, CosineTransform>());
static_assert(scaled_sketches_are_stepped<Gaussian, Rademacher, HadamardTransform, CosineTransform>());
static_assert(projections_are_stepped<SvdProjection>() && projections_are_stepped<Int4SvdProjection>());
static_assert(stepped<SvdProjection, ResidualScaling, AdamMoments<>, AdamMoments<bfloat16>>());
static_assert(stepped<IdentityProjection, ElementScaling, NoMoments, MomentumMoments<>, MeanMoments<>, AdamMoments<>,
                      BlockAdamMoments<>, AdafactorMoments, FactoredMeanMoments<>>());
static_assert(stepped<IdentityProjection, ElementScaling, AdamMoments<bfloat16>, BlockAdamMoments<bfloat16>>());
static_assert(
    stepped<IdentityProjection, ChannelScaling, NoMoments, MomentumMoments<>, MeanMoments<>, AdamMoments<>>() &&
    stepped<IdentityProjection, TensorScaling, NoMoments, MomentumMoments<>, MeanMoments<>, AdamMoments<>>() &&
    stepped<IdentityProjection, NormalizedScaling, NoMoments, MomentumMoments<>, MeanMoments<>>());

}  // namespace

TEST_CASE("normals of one Philox block are those of the batches") {
  const apollo::RandomStream stream{7, 9, apollo::Stream::projection, 3};
  std::vector<float> batch(4096), single(4096);
  apollo::fill_normals(stream, 0, batch.size(), batch.data());
  for (std::uint64_t block = 0; block < 1024; ++block)
    apollo::normal::one_block(stream, block, single.data() + 4 * block);
  CHECK(batch == single);
}
