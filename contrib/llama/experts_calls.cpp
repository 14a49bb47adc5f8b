// What Python calls, and where ggml comes by: each product of experts is seen before it is computed.

#include "experts.h"

#include "ggml-backend.h"
#include "ggml-cpu-impl.h"

#include <cstring>

namespace experts {

// The caches of this process; a process has few models.
constexpr int CACHES = 16;
std::atomic<Cache *> caches[CACHES];

} // namespace experts

using experts::Cache;

extern "C" {

bool ggml_cpu_extra_compute_forward_of_llama(struct ggml_compute_params * params, struct ggml_tensor * op);
bool ggml_cpu_extra_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op);

GGML_BACKEND_API void * twd_experts_open(const int * files, int n_files, const twd_expert_matrix * matrices, int count,
                                         uint64_t budget, uint64_t page, int readers);
GGML_BACKEND_API void twd_experts_close(void * cache);
GGML_BACKEND_API void twd_experts_numbers(void * cache, uint64_t * into);
GGML_BACKEND_API int twd_experts_uses(void * cache, uint64_t * into, int count);
GGML_BACKEND_API int twd_experts_foresee(void * cache, const int32_t * layers, const int32_t * numbers, int count);
GGML_BACKEND_API int twd_experts_foresee_tokens(void * cache, const int32_t * tokens, int count);
GGML_BACKEND_API int twd_experts_chosen(void * cache, int32_t token, int16_t * into);
GGML_BACKEND_API void twd_experts_tell_tokens(void * cache, const int32_t * tokens, int count);
GGML_BACKEND_API void twd_experts_tell_rows(void * cache, const int32_t * tokens, const int8_t * outputs, int count);
GGML_BACKEND_API void twd_experts_missing(void * cache, const int32_t * tokens, int count, uint64_t * into);
GGML_BACKEND_API void twd_experts_use_routers(void * cache, const twd_expert_router * routers, int count);
GGML_BACKEND_API void twd_experts_set_foresight(void * cache, int how);
GGML_BACKEND_API void twd_experts_set_budget(void * cache, uint64_t bytes);
GGML_BACKEND_API void twd_experts_set_half_life(void * cache, double passes);
GGML_BACKEND_API double twd_experts_replay(void * cache, double half_life, uint64_t budget, uint64_t passes,
                                           double counted);
GGML_BACKEND_API int twd_experts_forgive(void * cache, uint64_t * into);

void * twd_experts_open(const int * files, int n_files, const twd_expert_matrix * matrices, int count, uint64_t budget,
                        uint64_t page, int readers) {
    for (auto & place : experts::caches) {
        if (place.load() == nullptr) {
            Cache * cache = new Cache(files, n_files, matrices, count, budget, page, readers);
            place.store(cache);
            return cache;
        }
    }
    return nullptr;
}

// No pass of the model may run, now or later.
void twd_experts_close(void * cache) {
    for (auto & place : experts::caches) {
        if (place.load() == cache) {
            place.store(nullptr);
            delete (Cache *) cache;
        }
    }
}

void twd_experts_numbers(void * cache, uint64_t * into) {
    const experts::Numbers found = ((Cache *) cache)->numbers();
    std::memcpy(into, &found, sizeof(found));
}

int twd_experts_uses(void * cache, uint64_t * into, int count) { return ((Cache *) cache)->uses(into, count); }

int twd_experts_foresee(void * cache, const int32_t * layers, const int32_t * numbers, int count) {
    return ((Cache *) cache)->foresee(layers, numbers, count);
}

int twd_experts_foresee_tokens(void * cache, const int32_t * tokens, int count) {
    return ((Cache *) cache)->foresee_tokens(tokens, count);
}

int twd_experts_chosen(void * cache, int32_t token, int16_t * into) { return ((Cache *) cache)->chosen(token, into); }

void twd_experts_tell_tokens(void * cache, const int32_t * tokens, int count) {
    ((Cache *) cache)->tell_tokens(tokens, nullptr, count);
}

void twd_experts_tell_rows(void * cache, const int32_t * tokens, const int8_t * outputs, int count) {
    ((Cache *) cache)->tell_tokens(tokens, outputs, count);
}

void twd_experts_missing(void * cache, const int32_t * tokens, int count, uint64_t * into) {
    ((Cache *) cache)->missing(tokens, count, into);
}

void twd_experts_use_routers(void * cache, const twd_expert_router * routers, int count) {
    ((Cache *) cache)->use_routers(routers, count);
}

void twd_experts_set_foresight(void * cache, int how) {
    ((Cache *) cache)->set_foresight(how <= 0 ? experts::Foresight::OFF
                             : how == 1       ? experts::Foresight::TRY
                                              : experts::Foresight::ON);
}

void twd_experts_set_budget(void * cache, uint64_t bytes) { ((Cache *) cache)->set_budget(bytes); }

void twd_experts_set_half_life(void * cache, double passes) { ((Cache *) cache)->set_half_life(passes); }

double twd_experts_replay(void * cache, double half_life, uint64_t budget, uint64_t passes, double counted) {
    return ((Cache *) cache)->replay(half_life, budget, passes, counted);
}

int twd_experts_forgive(void * cache, uint64_t * into) { return ((Cache *) cache)->forgive(into); }

bool ggml_cpu_extra_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op) {
    if (op->op == GGML_OP_MUL_MAT_ID && op->src[0] != nullptr && op->src[2] != nullptr) {
        for (auto & place : experts::caches) {
            Cache * cache = place.load(std::memory_order_acquire);
            const experts::Matrix * matrix = cache ? cache->find(op->src[0]->data) : nullptr;
            if (matrix != nullptr) {
                if (params->ith == 0) {
                    cache->want(*matrix, op->src[2], op->src[1]);
                }
                cache->wait(*matrix, op->src[2], params->ith == 0);
                break;
            }
        }
    }
    return ggml_cpu_extra_compute_forward_of_llama(params, op);
}
}
