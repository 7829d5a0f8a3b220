// SPDX-License-Identifier: Apache-2.0
// The CPU production backend: <apollo/apollo.hpp> with Eigen's products and threads. apollo::eigen::Apollo<> is
// apollo::Apollo<EigenBackend>, apollo::eigen::Optimizer a whole model on it.
#pragma once

#include <apollo/apollo.hpp>
#include <apollo/eigen/session.hpp>

namespace apollo::eigen {

using Optimizer = BasicOptimizer<EigenBackend>;

template <class... Overrides>
using AdamW = apollo::AdamW<Overrides..., EigenBackend>;
template <class... Overrides>
using Sgd = apollo::Sgd<Overrides..., EigenBackend>;
template <class... Overrides>
using SgdMomentum = apollo::SgdMomentum<Overrides..., EigenBackend>;
template <class... Overrides>
using Apollo = apollo::Apollo<Overrides..., EigenBackend>;
template <class... Overrides>
using ApolloMini = apollo::ApolloMini<Overrides..., EigenBackend>;
template <class... Overrides>
using GaLore = apollo::GaLore<Overrides..., EigenBackend>;
template <class... Overrides>
using StructuredAdamW = apollo::StructuredAdamW<Overrides..., EigenBackend>;
template <class... Overrides>
using ApolloSvd = apollo::ApolloSvd<Overrides..., EigenBackend>;
template <class... Overrides>
using Fira = apollo::Fira<Overrides..., EigenBackend>;
template <class... Overrides>
using Flora = apollo::Flora<Overrides..., EigenBackend>;
template <class... Overrides>
using FloraFactored = apollo::FloraFactored<Overrides..., EigenBackend>;
template <class... Overrides>
using AdamMini = apollo::AdamMini<Overrides..., EigenBackend>;
template <class... Overrides>
using GaLoreAdafactor = apollo::GaLoreAdafactor<Overrides..., EigenBackend>;
template <class... Overrides>
using ColumnNormalizedSgd = apollo::ColumnNormalizedSgd<Overrides..., EigenBackend>;
template <class... Overrides>
using AdamW8bit = apollo::AdamW8bit<Overrides..., EigenBackend>;
template <class... Overrides>
using GaLore8bit = apollo::GaLore8bit<Overrides..., EigenBackend>;
template <class... Overrides>
using QApollo = apollo::QApollo<Overrides..., EigenBackend>;
template <class... Overrides>
using QApolloMini = apollo::QApolloMini<Overrides..., EigenBackend>;
template <class... Overrides>
using QGaLore = apollo::QGaLore<Overrides..., EigenBackend>;
template <class... List>
using StructuredOptimizer = apollo::StructuredOptimizer<List..., EigenBackend>;

}  // namespace apollo::eigen
