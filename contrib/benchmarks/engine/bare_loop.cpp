// llama.cpp's own step, with nothing around it: llama_decode of one token, and the largest logit. steps.py compiles it.

#include "llama.h"

#include <chrono>

extern "C" double bare_loop(llama_context * context, llama_token token, int position, int steps) {
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
    const auto began = std::chrono::steady_clock::now();
    llama_batch batch = llama_batch_init(1, 0, 1);
    for (int step = 0; step < steps; ++step) {
        batch.n_tokens = 1;
        batch.token[0] = token;
        batch.pos[0] = position + step;
        batch.n_seq_id[0] = 1;
        batch.seq_id[0][0] = 0;
        batch.logits[0] = 1;
        if (llama_decode(context, batch) != 0) {
            return -1.0;
        }
        const float * logits = llama_get_logits_ith(context, 0);
        token = 0;
        for (int id = 1; id < vocabulary; ++id) {
            token = logits[id] > logits[token] ? id : token;
        }
    }
    llama_batch_free(batch);
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - began;
    return spent.count() / steps;
}
