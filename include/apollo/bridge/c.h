/* SPDX-License-Identifier: Apache-2.0 */
/* The optimizers from C, or from C++ of any standard: one object built once by a C++20 compiler (apollo/bridge/c.hpp) has these
   functions. No exception passes them: each says by its status whether it did what it is for, and apollo_error() why not. What
   fails has changed nothing, unless said otherwise. Different optimizers may be used by different threads. */
#ifndef APOLLO_BRIDGE_C_H
#define APOLLO_BRIDGE_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct apollo_optimizer apollo_optimizer;

typedef enum apollo_status {
  APOLLO_OK = 0,
  APOLLO_BAD_ARGUMENT = 1, /* an option, a shape, a name, a null pointer */
  APOLLO_NOT_NOW = 2,      /* fine in itself, but not in this order */
  APOLLO_BAD_FILE = 3,     /* a file that cannot be written, read or understood */
  APOLLO_FAILED = 4        /* out of memory, and whatever else */
} apollo_status;

typedef enum apollo_member {
  APOLLO_ADAMW = 0,
  APOLLO_SGD = 1,
  APOLLO_APOLLO = 2,
  APOLLO_APOLLO_MINI = 3,
  APOLLO_GALORE = 4
} apollo_member;

/* Hyper-parameters by their published names. Take them from apollo_defaults() and change what differs. What a member does not
   have is 0 there and must stay so. */
typedef struct apollo_options {
  apollo_member member;
  double lr;
  double beta1, beta2, eps, weight_decay;
  double scale;            /* APOLLO, APOLLO-Mini, GaLore */
  int64_t rank;            /* APOLLO, GaLore */
  int64_t update_proj_gap; /* APOLLO, APOLLO-Mini, GaLore */
  uint64_t seed;
} apollo_options;

/* A tensor of a flat buffer of floats, row-major; `count` of them behind each other are name[0] ... name[count - 1]. */
typedef struct apollo_tensor {
  const char* name;    /* its identity, for random numbers and checkpoints; copied */
  int64_t offset;      /* elements before it */
  int64_t rows, cols;  /* cols = 1: a vector */
  int64_t count;       /* at least 1 */
} apollo_tensor;

/* Why the last call of this thread failed; "" if none did. Valid until the thread's next call. */
const char* apollo_error(void);

apollo_status apollo_defaults(apollo_member member, apollo_options* options);

/* Matrices are stepped by `matrices`, vectors by `others`. `threads` of 0 is the backend's default. */
apollo_status apollo_create(const apollo_options* matrices, const apollo_options* others, int threads,
                            apollo_optimizer** created);
void apollo_destroy(apollo_optimizer* optimizer); /* null is fine */

/* Registers tensors of two buffers that are laid out alike and stay where they are; several calls are about the same two. After a
   failure those before the one at fault may be registered: destroy the optimizer. apollo_rebind() says where the buffers now are. */
apollo_status apollo_add(apollo_optimizer* optimizer, const apollo_tensor* tensors, size_t count, float* weights,
                         const float* gradients);
apollo_status apollo_rebind(apollo_optimizer* optimizer, float* weights, const float* gradients);

/* The learning rates of both groups. */
apollo_status apollo_set_lr(apollo_optimizer* optimizer, double matrices, double others);
/* Scales gradients down to this common norm; 0 switches it off. */
apollo_status apollo_clip(apollo_optimizer* optimizer, double norm);

/* One step of every tensor. `skipped`, unless null, counts those whose gradient was not finite: they are as they were. */
apollo_status apollo_step(apollo_optimizer* optimizer, int64_t* skipped);

/* safetensors files, whole or not at all. */
apollo_status apollo_save(const apollo_optimizer* optimizer, const char* path);
apollo_status apollo_load(apollo_optimizer* optimizer, const char* path);

apollo_status apollo_state_bytes(const apollo_optimizer* optimizer, int64_t* bytes);

#ifdef __cplusplus
}
#endif

#endif
