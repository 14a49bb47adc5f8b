// See device_rows.h. llama.cpp lets samplers add to the graph of a pass, and leaves logits where they are if every
// sequence has one. Ours adds the same for all rows at once. Nothing is believed that the numbers themselves do not
// prove, so it does not matter which of equal numbers a device finds first.

#include "device_rows.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

using picking::ASK;
using picking::Peak;
using picking::Sure;

namespace device_rows {

namespace {

constexpr int BLOCKS_MAX = 65535; // devices start at most so many groups in one direction
constexpr int WEIGHED_MAX = 16;   // rows with chances: more would need much memory on the device
constexpr float LARGE = 3e38f;
constexpr size_t SPARE = 8;       // so many times the memory of these must be free: llama.cpp ends where it gets none
constexpr int PROBED = 128;       // length of blocks where llama.cpp counts nodes, with a vocabulary of its own

// A divisor of the vocabulary near the root of it: as many blocks as each has numbers.
int block_length(int size) {
    const int root = int(std::sqrt(double(size)));
    for (int away = 0; away < root; ++away) {
        for (const int length : {root - away, root + away}) {
            if (size % length == 0) {
                return length;
            }
        }
    }
    return size;
}

struct Parts {
    ggml_tensor * nodes[7]; // what a device must be able to compute, besides joining
    ggml_tensor * found;
    int peaked, weighed;
};

ggml_tensor * in_a_line(ggml_context * in, ggml_tensor * of) { return ggml_reshape_1d(in, of, ggml_nelements(of)); }

// For each block the largest number and the sum, which is no number if one of them is none; for each row the block with
// the largest number; for a few rows the sums of e^(x - largest) of their blocks.
Parts parts_of(ggml_context * in, ggml_tensor * logits, int length) {
    const int64_t blocks = logits->ne[0] / length;
    const int64_t rows = std::min<int64_t>(logits->ne[1], BLOCKS_MAX / blocks);
    const int64_t few = std::min<int64_t>(rows, WEIGHED_MAX), count = blocks * rows;
    ggml_tensor * flat = ggml_view_2d(in, logits, length, count, length * sizeof(float), 0);
    ggml_tensor * places = ggml_argmax(in, flat);
    ggml_tensor * each = ggml_reshape_3d(in, flat, 1, length, count);
    ggml_tensor * peaks = ggml_get_rows(in, each, ggml_reshape_2d(in, places, 1, count));
    ggml_tensor * sums = ggml_sum_rows(in, flat);
    ggml_tensor * numbers = ggml_clamp(in, peaks, -LARGE, LARGE); // CUDA finds -1 where there are none
    ggml_tensor * block = ggml_argmax(in, ggml_reshape_2d(in, numbers, blocks, rows));
    ggml_tensor * whole = ggml_reshape_3d(in, flat, length, blocks, rows);
    ggml_tensor * parts = ggml_get_rows(in, whole, ggml_reshape_2d(in, block, 1, rows));
    ggml_tensor * first = ggml_view_2d(in, logits, length, blocks * few, length * sizeof(float), 0);
    ggml_tensor * tops = ggml_view_2d(in, peaks, 1, blocks * few, sizeof(float), 0);
    ggml_tensor * shares = ggml_exp(in, ggml_sub(in, first, tops));
    ggml_tensor * weights = ggml_sum_rows(in, shares);
    ggml_tensor * found = in_a_line(in, peaks);
    for (ggml_tensor * more : {sums, parts, weights}) {
        found = ggml_concat(in, found, in_a_line(in, more), 0);
    }
    return {{places, peaks, sums, numbers, block, parts, shares}, found, int(rows), int(few)};
}

// Whether a device takes further questions before it has answered the first, into memory of any kind.
bool reads_ahead(ggml_backend_dev_t device) {
    const std::string name = ggml_backend_reg_name(ggml_backend_dev_backend_reg(device));
    return name == "CUDA" || name == "ROCm" || name == "MUSA" || name == "Vulkan";
}

Rows & rows_of(llama_sampler * sampler) { return *(Rows *) sampler->ctx; }

const char * name_of(const llama_sampler *) { return "twd-rows"; }
void apply(llama_sampler *, llama_token_data_array *) {}
bool begin_on(llama_sampler * one, ggml_backend_buffer_type_t type, uint32_t) { return rows_of(one).can_use(type); }
void forget(llama_sampler * one) { rows_of(one).forget_graph(); }

void add(llama_sampler * one, ggml_context * context, ggml_cgraph * graph, llama_sampler_data * data) {
    rows_of(one).add_to(context, graph, data->logits);
    data->logits = nullptr; // otherwise llama.cpp brings them home
}

llama_sampler_i own_functions() {
    llama_sampler_i functions{};
    functions.name = name_of;
    functions.apply = apply;
    functions.backend_init = begin_on;
    functions.backend_apply = add;
    functions.backend_reset = forget;
    return functions;
}

llama_sampler_i functions = own_functions();

// The first of the largest numbers.
Peak largest(const float * x, int count) {
    const float * most = std::max_element(x, x + count);
    return {*most, int(most - x)};
}

} // namespace

Rows::Rows(llama_context * context, int sequences, Place place)
    : context_(context), place_(place), size_(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)))),
      length_(block_length(size_)), blocks_(size_ / length_), part_(length_) {
    for (int one = 0; one < sequences; ++one) {
        chains_.push_back(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        llama_sampler_chain_add(chains_.back(), llama_sampler_init(&functions, this));
        if (!llama_set_sampler(context_, one, chains_.back())) {
            is_able_ = false;
        }
        if (!is_able_) {
            return;
        }
    }
}

Rows::~Rows() {
    for (size_t one = 0; one < chains_.size(); ++one) {
        llama_set_sampler(context_, llama_seq_id(one), nullptr);
        llama_sampler_free(chains_[one]);
    }
    for (const Home & one : homes_) {
        ggml_backend_buffer_free(one.buffer);
    }
    if (reader_ != nullptr) {
        ggml_backend_free(reader_);
    }
}

std::unique_ptr<Rows> Rows::open(llama_context * context, int sequences, Place place) {
    std::unique_ptr<Rows> rows(new Rows(context, sequences, place));
    return rows->is_able_ && rows->blocks_ > 1 ? std::move(rows) : nullptr;
}

// llama.cpp's memory for processors names no device.
bool Rows::can_use(ggml_backend_buffer_type_t type) {
    ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
    const auto kind = device == nullptr ? GGML_BACKEND_DEVICE_TYPE_CPU : ggml_backend_dev_type(device);
    if (kind == GGML_BACKEND_DEVICE_TYPE_CPU && place_ != Place::ANYWHERE) {
        return false;
    }
    size_t free = 0, total = 0;
    if (device != nullptr) {
        ggml_backend_dev_memory(device, &free, &total);
    }
    if (total > 0 && free < SPARE * WEIGHED_MAX * size_ * sizeof(float)) {
        return false;
    }
    ggml_context * context = ggml_init({size_t(64) * ggml_tensor_overhead(), nullptr, true});
    const Parts parts = parts_of(context, ggml_new_tensor_2d(context, GGML_TYPE_F32, size_, 2), length_);
    const auto can = [&](const ggml_tensor * one) { return device == nullptr || ggml_backend_dev_supports_op(device, one); };
    is_able_ = std::all_of(std::begin(parts.nodes), std::end(parts.nodes), can) && can(parts.found);
    ggml_free(context);
    return is_able_;
}

void Rows::forget_graph() { logits_ = found_ = nullptr; }

// Each sequence's sampler comes here with a view of its row, and the first one adds for all. That view is of a padded
// copy of the logits, which nobody computes unless somebody reads it.
void Rows::add_to(ggml_context * context, ggml_cgraph * graph, ggml_tensor * row) {
    if (found_ != nullptr) {
        return;
    }
    const bool is_real = row->view_src != nullptr && row->view_src->op == GGML_OP_PAD;
    ggml_tensor * logits = is_real ? row->view_src->src[0] : row;
    if (ggml_nelements(logits) == 0) {
        return;
    }
    const Parts parts = parts_of(context, logits, is_real ? length_ : PROBED);
    ggml_set_output(parts.found);
    ggml_build_forward_expand(graph, parts.found);
    logits_ = logits;
    found_ = parts.found;
    peaked_ = parts.peaked;
    weighed_ = parts.weighed;
}

bool Rows::begin(int outputs) {
    is_found_ = are_all_here_ = false;
    outputs_ = outputs;
    for (Home & one : homes_) {
        one.is_filled = false;
    }
    if (outputs == 0) {
        return true;
    }
    llama_synchronize(context_);
    return logits_ != nullptr && logits_->ne[0] == size_ && logits_->ne[1] == outputs;
}

bool Rows::fetch_found() {
    if (!is_found_ && found_ != nullptr) {
        here_.resize(ggml_nelements(found_));
        ggml_backend_tensor_get(found_, here_.data(), 0, ggml_nbytes(found_));
        is_found_ = true;
    }
    return is_found_;
}

void Rows::fetch_part(int row, int block) {
    const size_t start = size_t(row) * size_ + size_t(block) * length_;
    ggml_backend_tensor_get(logits_, part_.data(), start * sizeof(float), length_ * sizeof(float));
    fetched_ += size_t(length_);
}

Peak Rows::peak(int row) {
    if (row < 0 || row >= std::min(outputs_, peaked_) || !fetch_found()) {
        return {};
    }
    const float * peaks = here_.data() + size_t(row) * blocks_;
    const float * sums = peaks + size_t(peaked_) * blocks_;
    const auto is_number = [](float x) { return std::isfinite(x); };
    if (!std::all_of(peaks, peaks + blocks_, is_number) || !std::all_of(sums, sums + blocks_, is_number)) {
        return {};
    }
    const Peak block = largest(peaks, blocks_);
    const bool is_alone = std::find(peaks + block.place + 1, peaks + blocks_, block.value) == peaks + blocks_;
    const float * told = here_.data() + size_t(peaked_) * blocks_ * 2 + size_t(row) * length_;
    if (is_alone) {
        std::copy(told, told + length_, part_.begin());
    } else {
        fetch_part(row, block.place);
    }
    near_ = block.place;
    const Peak found = largest(part_.data(), length_);
    return found.value == block.value ? Peak{found.value, block.place * length_ + found.place} : Peak{};
}

// The largest of all other tokens. Its own block is the part that peak() has left here.
Peak Rows::next_best(int row, const Peak & peak) {
    const float * peaks = here_.data() + size_t(row) * blocks_;
    const int own = peak.place / length_, inside = peak.place % length_;
    Peak best{-std::numeric_limits<float>::infinity(), ASK};
    const auto better = [&](float value, int place) { best = value > best.value ? Peak{value, place} : best; };
    for (int block = 0; block < blocks_; ++block) {
        if (block != own) {
            better(peaks[block], block * length_);
            continue;
        }
        for (int i = 0; i < length_; ++i) {
            if (i != inside) {
                better(part_[i], own * length_ + i);
            }
        }
    }
    if (best.place == ASK || best.place / length_ == own) {
        return best;
    }
    fetch_part(row, best.place / length_);
    const Peak found = largest(part_.data(), length_);
    return found.value == best.value ? Peak{best.value, best.place + found.place} : Peak{};
}

bool Rows::sure_of(int row, const Peak & peak, bool with_other, Sure & sure) {
    if (row >= weighed_) {
        return false;
    }
    const float * peaks = here_.data() + size_t(row) * blocks_;
    const float * weights = here_.data() + size_t(peaked_) * (blocks_ * 2 + length_) + size_t(row) * blocks_;
    double total = 0.0;
    for (int block = 0; block < blocks_; ++block) {
        total += double(weights[block]) * std::exp(double(peaks[block]) - double(peak.value));
    }
    if (!(total >= 0.999) || !std::isfinite(total)) {
        return false;
    }
    sure.share = 1.0 / total;
    if (!with_other) {
        return true;
    }
    const Peak next = next_best(row, peak);
    sure.other = next.place;
    sure.other_share = next.place == ASK ? 0.0 : std::exp(double(next.value) - double(peak.value)) / total;
    return next.place != ASK;
}

struct Rows::Row : picking::Blocks {
    Row(Rows & rows, int number, float * memory) : rows(rows), number(number) {
        length = rows.length_;
        count = rows.blocks_;
        row = memory;
        peaks = rows.here_.data() + size_t(number) * count;
        const float * weights_of_all = rows.here_.data() + size_t(rows.peaked_) * (count * 2 + length);
        weights = number < rows.weighed_ ? weights_of_all + size_t(number) * count : nullptr;
    }

    bool read(const int * blocks, int many) override { return rows.read_blocks(number, blocks, many, row); }

    Rows & rows;
    int number;
};

int Rows::choose(
    int row, const twd_rule & rule, const int32_t * recent, int count, int position, int judges, Sure & sure) {
    fetched_ = 0;
    const bool is_plain = picking::takes_largest(rule);
    const Peak top = is_plain || uses_blocks_ ? peak(row) : Peak{};
    if (top.place == ASK) {
        return ASK;
    }
    int token = top.place;
    double less = 0.0;
    if (!is_plain) {
        picker_ = picker_ ? std::move(picker_) : std::make_unique<picking::BlockPicker>(size_);
        Row elsewhere(*this, row, memory_of(row));
        token = picker_->pick(elsewhere, rule, recent, count, position);
        less = token == ASK ? 0.0 : double(elsewhere.row[token]) - double(top.value);
    }
    if (token == ASK || judges == 0) {
        return token;
    }
    if (!sure_of(row, top, judges > 1 && token == top.place, sure)) {
        return ASK;
    }
    if (token != top.place) {
        sure.other = judges > 1 ? top.place : ASK;
        sure.other_share = judges > 1 ? sure.share : 0.0;
        sure.share *= std::exp(less);
    }
    return token;
}

// All are asked for before the first of them is there, so that a far device costs one way, and a near one one wait.
bool Rows::read_blocks(int row, const int * blocks, int count, float * memory) {
    int waits = 0;
    for (int i = 0; i < count;) {
        const int first = blocks[i];
        int end = i + 1;
        if (first == near_) {
            std::copy(part_.begin(), part_.end(), memory + size_t(first) * length_);
            i = end;
            continue;
        }
        while (end < count && blocks[end] == blocks[end - 1] + 1 && blocks[end] != near_) {
            ++end;
        }
        const size_t start = size_t(first) * length_, many = size_t(end - i) * length_;
        const size_t offset = (size_t(row) * size_ + start) * sizeof(float);
        if (ggml_backend_t through = reader()) {
            ggml_backend_tensor_get_async(through, logits_, memory + start, offset, many * sizeof(float));
            ++waits;
        } else {
            ggml_backend_tensor_get(logits_, memory + start, offset, many * sizeof(float));
        }
        fetched_ += many;
        i = end;
    }
    if (waits > 0) {
        ggml_backend_synchronize(reader());
    }
    return true;
}

// llama.cpp's own queue is not to be had; another one of the same device is. The pass is complete by then.
ggml_backend_t Rows::reader() {
    if (!has_reader_) {
        has_reader_ = true;
        ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(logits_->buffer));
        const bool is_able = device != nullptr && (place_ == Place::FAR || reads_ahead(device));
        reader_ = is_able ? ggml_backend_dev_init(device, nullptr) : nullptr;
    }
    return reader_;
}

// From memory of its own kind a device copies faster.
float * Rows::memory_of(int row) {
    if (row >= int(homes_.size())) {
        homes_.resize(row + 1);
    }
    Home & home = homes_[row];
    if (home.buffer == nullptr && home.plain.empty()) {
        ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(logits_->buffer));
        ggml_backend_buffer_type_t type = device == nullptr ? nullptr : ggml_backend_dev_host_buffer_type(device);
        home.buffer = type == nullptr ? nullptr : ggml_backend_buft_alloc_buffer(type, size_ * sizeof(float));
        home.plain.resize(home.buffer == nullptr ? size_ : 0);
    }
    return home.buffer == nullptr ? home.plain.data() : (float *) ggml_backend_buffer_get_base(home.buffer);
}

const float * Rows::all_logits() {
    if (!are_all_here_) {
        all_.resize(size_t(outputs_) * size_);
        ggml_backend_tensor_get(logits_, all_.data(), 0, all_.size() * sizeof(float));
        are_all_here_ = true;
    }
    return all_.data();
}

const float * Rows::logits(int row) {
    if (row < 0 || row >= outputs_ || logits_ == nullptr || outputs_ != logits_->ne[1]) {
        return nullptr;
    }
    if (place_ == Place::FAR) { // a way there takes longer than a row
        return all_logits() + size_t(row) * size_;
    }
    float * memory = memory_of(row);
    if (!homes_[row].is_filled) {
        ggml_backend_tensor_get(logits_, memory, size_t(row) * size_ * sizeof(float), size_ * sizeof(float));
        homes_[row].is_filled = true;
    }
    return memory;
}

} // namespace device_rows

extern "C" {

TWD_OPEN void * twd_rows_open(llama_context * context, int32_t sequences, int32_t place);
TWD_OPEN int32_t twd_rows_begin(void * rows, int32_t outputs);
TWD_OPEN void twd_rows_choose(void * rows, int32_t row, const twd_rule * rule, const int32_t * tokens, int32_t count,
                              int32_t position, int32_t judges, twd_pick * pick);
TWD_OPEN void twd_rows_use_blocks(void * rows, int32_t wanted);
TWD_OPEN int64_t twd_rows_fetched(const void * rows);
TWD_OPEN const float * twd_rows_logits(void * rows, int32_t row);
TWD_OPEN void twd_rows_close(void * rows);

// From now on the logits of this context stay where they are computed. nullptr: they come home as before. `place`: see
// Place.
void * twd_rows_open(llama_context * context, int32_t sequences, int32_t place) {
    return device_rows::Rows::open(context, sequences, device_rows::Place(place)).release();
}

// To be called behind each pass; 0: its logits are not to be had.
int32_t twd_rows_begin(void * rows, int32_t outputs) { return ((device_rows::Rows *) rows)->begin(outputs); }

// The next token of a text by a rule, from an output of the last pass; -1: look at the row. `tokens` are the last `count`
// of the text's `position` tokens. `judges`: 1 asks for its chance, 2 for the second choice, too.
void twd_rows_choose(void * rows, int32_t row, const twd_rule * rule, const int32_t * tokens, int32_t count,
                     int32_t position, int32_t judges, twd_pick * pick) {
    Sure sure;
    const int token = ((device_rows::Rows *) rows)->choose(row, *rule, tokens, count, position, judges, sure);
    *pick = {token, sure.other, sure.share, sure.other_share};
}

// Whether other choices than the largest look at blocks first; else the whole row is asked for.
void twd_rows_use_blocks(void * rows, int32_t wanted) { ((device_rows::Rows *) rows)->use_blocks(wanted != 0); }

// How many numbers came home for the last choice, besides what comes home with each pass.
int64_t twd_rows_fetched(const void * rows) { return int64_t(((const device_rows::Rows *) rows)->fetched()); }

const float * twd_rows_logits(void * rows, int32_t row) { return ((device_rows::Rows *) rows)->logits(row); }

// From now on they come home again.
void twd_rows_close(void * rows) { delete (device_rows::Rows *) rows; }

} // extern "C"
