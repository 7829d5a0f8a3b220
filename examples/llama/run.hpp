// SPDX-License-Identifier: Apache-2.0
// What one training run leaves behind: a row for every logged step, and its summary.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace llama {

inline constexpr double not_evaluated = -1;

struct LogRow {
  std::int64_t step = 0;
  std::int64_t tokens = 0;                 ///< trained on so far
  double seconds = 0;                      ///< of training so far, without validation
  double lr_factor = 0;                    ///< of the schedule
  double training_loss = 0;                ///< nats a token, of this step's batch
  double validation_loss = not_evaluated;  ///< nats a token, of a part of the validation text
  double optimizer_ms = 0;                 ///< of this step
};

struct Run {
  std::string optimizer;  ///< as given to --optimizer
  double lr = 0;          ///< of the matrices
  double other_lr = 0;    ///< of the embedding, the head and the norms
  std::uint64_t seed = 0;
  std::int64_t steps = 0;

  double validation_loss = 0;  ///< nats a byte, all windows; perplexity is its exponential, bits a byte are it / ln 2
  std::int64_t weight_bytes = 0;         ///< of the whole model
  std::int64_t matrix_state_bytes = 0;   ///< moments and bases of the matrices
  std::int64_t matrix_record_bytes = 0;  ///< step counts, limiters' norms
  std::int64_t state_bytes = 0;          ///< of the whole model
  std::int64_t record_bytes = 0;
  std::int64_t adamw_matrix_bytes = 0;  ///< what AdamW would keep
  std::int64_t adamw_bytes = 0;
  std::int64_t skipped = 0;  ///< tensor steps left out, for example because of a NaN
  double optimizer_median_ms = 0, optimizer_mean_ms = 0;
  double seconds = 0;            ///< of training, without validation
  double tokens_per_second = 0;  ///< of training, the optimizer included
  std::vector<LogRow> log;
};

}  // namespace llama
