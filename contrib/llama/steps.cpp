// Makes several tokens of one or more texts in one call: each pass reads what was picked from the pass before. Python
// would do the same with a call for each token; here nothing but llama.cpp takes time. It ends early where Python must
// decide: see twd_steps_run.

#include "device_rows.h"
#include "picking.h"

#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

extern "C" {

// One text. Its picks are written behind the tokens given.
struct twd_text {
    const twd_rule * rule;
    int32_t * tokens;  // the last `count` tokens of the text, with room for the picks
    double * sure;     // for each pick its chance, if `judges`
    int32_t * others;  // the second choices, if `judges` is 2
    double * other_sure;
    double least;      // end behind a pick with which the product of chances falls below this
    int32_t count;
    int32_t position;  // the length of the whole text
    int32_t output;    // its row of the first pass
    int32_t repeats;   // end where so many last tokens stand among `tokens` before; 0: never
    int32_t judges;    // 0: no chances; 1: chances; 2: second choices, too
    int32_t asks;      // comes back as 1 if Python must choose the last token
};

// One row of the later passes. `text` -1: padding.
struct twd_row {
    int32_t slot;
    int32_t text;
    int32_t position; // in the second pass
    int32_t moves;    // 1: one further in each pass
    int32_t output;
};

// What stands in a slot from here on is padding, and removed after each pass.
struct twd_end {
    int32_t slot;
    int32_t position; // after the first pass
    int32_t moves;
};

struct twd_run {
    const int32_t * tokens; // the first pass
    const int32_t * positions;
    const int32_t * slots;
    const int8_t * outputs;
    const twd_row * rows;
    const twd_end * trims;
    twd_text * texts;
    const uint8_t * ends; // for each token of the vocabulary, whether a text ends with it
    const uint8_t * halt; // another thread writes 1 to end the run
    int64_t budget_ns;    // no pass begins after so long
    int32_t n_first;
    int32_t n_rows;
    int32_t n_trims;
    int32_t n_texts;
    int32_t steps; // most tokens of each text
    int32_t done;  // comes back: how many tokens each text got
    int32_t code;  // comes back: what llama_decode returned for a pass that failed; else 0
    void * there;  // logits that stay on the device (twd_rows_open); nullptr: they come home
};

} // extern "C"

namespace {

int64_t now_ns() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Whether the last tokens of a text stand in it before, with something behind them.
bool repeats(const int32_t * tokens, int count, int length) {
    const int32_t * end = tokens + count - length;
    for (int start = 0; length > 0 && start + length < count; ++start) {
        if (std::equal(end, end + length, tokens + start)) {
            return true;
        }
    }
    return false;
}

class Steps {
  public:
    explicit Steps(llama_context * context)
        : context_(context), memory_(llama_get_memory(context)),
          picker_(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)))) {}

    void run(twd_run & run) {
        const int64_t until = now_ns() + run.budget_ns;
        sure_.assign(run.n_texts, 1.0);
        asked_.resize(run.n_texts);
        rows_ = (device_rows::Rows *) run.there;
        first(run);
        bool goes_on = true;
        while (goes_on) {
            run.code = llama_decode(context_, batch());
            if (run.code != 0 || !has_logits(run) || !remove_padding(run)) {
                return;
            }
            goes_on = pick_all(run);
            run.done += 1;
            goes_on = goes_on && run.done < run.steps && !halted(run) && now_ns() < until;
            if (goes_on) {
                next(run);
            }
        }
    }

    const float * asked(int text) const { return asked_[text].data(); }

  private:
    static bool halted(const twd_run & run) { return *(const volatile uint8_t *) run.halt != 0; }

    llama_batch batch() {
        llama_batch batch{};
        batch.n_tokens = int32_t(tokens_.size());
        batch.token = tokens_.data();
        batch.pos = positions_.data();
        batch.n_seq_id = counts_.data();
        batch.seq_id = slot_places_.data();
        batch.logits = outputs_.data();
        return batch;
    }

    void resize(int rows) {
        tokens_.resize(rows);
        positions_.resize(rows);
        slots_.resize(rows);
        outputs_.resize(rows);
        counts_.assign(rows, 1);
        slot_places_.resize(rows);
        for (int row = 0; row < rows; ++row) {
            slot_places_[row] = &slots_[row];
        }
    }

    void first(const twd_run & run) {
        resize(run.n_first);
        std::copy(run.tokens, run.tokens + run.n_first, tokens_.begin());
        std::copy(run.positions, run.positions + run.n_first, positions_.begin());
        std::copy(run.slots, run.slots + run.n_first, slots_.begin());
        std::copy(run.outputs, run.outputs + run.n_first, outputs_.begin());
    }

    void next(const twd_run & run) {
        resize(run.n_rows);
        for (int row = 0; row < run.n_rows; ++row) {
            const twd_row & one = run.rows[row];
            const twd_text * text = one.text < 0 ? nullptr : run.texts + one.text;
            tokens_[row] = text == nullptr ? 0 : text->tokens[text->count + run.done - 1];
            positions_[row] = one.position + one.moves * (run.done - 1);
            slots_[row] = one.slot;
            outputs_[row] = int8_t(one.output);
        }
    }

    bool has_logits(twd_run & run) {
        if (rows_ != nullptr && !rows_->begin(int(std::count_if(outputs_.begin(), outputs_.end(), wanted)))) {
            run.code = -1;
        }
        return run.code == 0;
    }

    bool remove_padding(twd_run & run) {
        for (int i = 0; i < run.n_trims; ++i) {
            const twd_end & one = run.trims[i];
            if (!llama_memory_seq_rm(memory_, one.slot, one.position + one.moves * run.done, -1)) {
                run.code = -1;
                return false;
            }
        }
        return true;
    }

    int row_of(const twd_run & run, int text) const {
        if (run.done == 0) {
            return run.texts[text].output;
        }
        const auto is_its = [&](const twd_row & one) { return one.text == text; };
        return int(std::find_if(run.rows, run.rows + run.n_rows, is_its) - run.rows);
    }

    // Picks for every text; returns whether all of them go on.
    bool pick_all(twd_run & run) {
        bool goes_on = true;
        for (int number = 0; number < run.n_texts; ++number) {
            goes_on = pick(run, number) && goes_on;
        }
        return goes_on;
    }

    bool pick(twd_run & run, int number) {
        twd_text & text = run.texts[number];
        const int count = text.count + run.done;
        picking::Sure sure;
        const int token = choose(run, number, sure);
        text.tokens[count] = token;
        if (token == picking::ASK) {
            text.asks = 1;
            return false;
        }
        if (text.judges) {
            text.sure[run.done] = sure.share;
            text.others[run.done] = sure.other;
            text.other_sure[run.done] = sure.other_share;
            sure_[number] *= sure.share;
        }
        return !run.ends[token] && sure_[number] >= text.least && !repeats(text.tokens, count + 1, text.repeats);
    }

    int choose(const twd_run & run, int number, picking::Sure & sure) {
        const twd_text & text = run.texts[number];
        const int row = row_of(run, number);
        const int there = choose_there(run, text, row, sure);
        if (there != picking::ASK) {
            return there;
        }
        const float * logits = rows_ == nullptr ? llama_get_logits_ith(context_, row) : rows_->logits(output_of(row));
        const int length = text.position + run.done;
        const int token = picker_.pick(logits, *text.rule, text.tokens, text.count + run.done, length);
        if (token == picking::ASK) {
            asked_[number].assign(logits, logits + picker_.size());
        } else if (text.judges) {
            sure = picker_.sure_of(logits, token, text.judges > 1);
        }
        return token;
    }

    // From what was found on the device; ASK: that does not suffice.
    int choose_there(const twd_run & run, const twd_text & text, int row, picking::Sure & sure) {
        if (rows_ == nullptr) {
            return picking::ASK;
        }
        const int count = text.count + run.done, length = text.position + run.done;
        return rows_->choose(output_of(row), *text.rule, text.tokens, count, length, text.judges, sure);
    }

    int output_of(int row) const { return int(std::count_if(outputs_.begin(), outputs_.begin() + row, wanted)); }

    static bool wanted(int8_t output) { return output != 0; }

    llama_context * context_;
    llama_memory_t memory_;
    picking::Picker picker_;
    std::vector<llama_token> tokens_;
    std::vector<llama_pos> positions_;
    std::vector<llama_seq_id> slots_;
    std::vector<int32_t> counts_;
    std::vector<llama_seq_id *> slot_places_;
    std::vector<int8_t> outputs_;
    std::vector<double> sure_;
    std::vector<std::vector<float>> asked_;
    device_rows::Rows * rows_ = nullptr;
};

} // namespace

extern "C" {

TWD_OPEN void * twd_steps_open(llama_context * context);
TWD_OPEN void twd_steps_run(void * steps, twd_run * run);
TWD_OPEN const float * twd_steps_asked(const void * steps, int32_t text);
TWD_OPEN void twd_steps_close(void * steps);

void * twd_steps_open(llama_context * context) { return new Steps(context); }

// Runs until `steps` tokens are made, `halt` is set, the time is over, a text ends, falls below its `least`, repeats
// itself or asks, or a pass fails. All texts have then `done` tokens more.
void twd_steps_run(void * steps, twd_run * run) { ((Steps *) steps)->run(*run); }

// The logits for which a text asks Python to choose.
const float * twd_steps_asked(const void * steps, int32_t text) { return ((const Steps *) steps)->asked(text); }

void twd_steps_close(void * steps) { delete (Steps *) steps; }

} // extern "C"
