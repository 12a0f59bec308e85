// A plain C interface over ExecuTorch's C++ runtime (the libexecutorch*.so of its wheel), for ctypes. PyTorch is not needed.
//
// ExecuTorch's C++ interface is not stable: the shim is compiled for exactly the version whose libraries it is linked to.
// Functions return 0 or a code of executorch::runtime::Error (runtime/core/error.h); ek_et_message() then says why. One
// thread at a time may use a model; that thread reads the message.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>
#include <executorch/runtime/core/event_tracer.h>
#include <executorch/runtime/platform/clock.h>
#include <executorch/runtime/platform/platform.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

using executorch::aten::ArrayRef;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::AllocatorID;
using executorch::runtime::ChainID;
using executorch::runtime::DebugHandle;
using executorch::runtime::DelegateDebugIntId;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::EventTracer;
using executorch::runtime::EventTracerEntry;
using executorch::runtime::EventTracerFilterBase;
using executorch::runtime::LoggedEValueType;
using executorch::runtime::Method;
using executorch::runtime::MethodMeta;
using executorch::runtime::Program;
using executorch::runtime::Result;
using executorch::runtime::Tag;
using executorch::runtime::TensorInfo;

// The wheel has this in libexecutorch_threadpool.so, but does not ship the header (extension/threadpool/threadpool.h).
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

#ifndef EDGEKIT_EXECUTORCH_VERSION
#define EDGEKIT_EXECUTORCH_VERSION "unknown"
#endif

namespace {

constexpr int kMaxRank = 16;
// XNNPACK's kernels may read up to 16 bytes beyond the end of a buffer (XNN_EXTRA_BYTES).
constexpr size_t kPadding = 64;

std::mutex log_lock;
std::string log_text;      // the runtime's error messages since the current call began
std::string message_text;  // what ek_et_message() returns

void keep_log(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message, size_t length) {
  // A fatal message precedes abort(): nobody could ask for it afterwards.
  if (level == kFatal) std::fprintf(stderr, "ExecuTorch: %.*s\n", static_cast<int>(length), message);
  if (level != kError && level != kFatal) return;
  std::lock_guard<std::mutex> guard(log_lock);
  if (log_text.size() < 1000) log_text += (log_text.empty() ? "" : "; ") + std::string(message, length);
}

void begin() {
  static const bool once = executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_log, "edgekit"));
  (void)once;
  std::lock_guard<std::mutex> guard(log_lock);
  log_text.clear();
  message_text.clear();
}

int fail(Error error, const std::string& doing) {
  std::lock_guard<std::mutex> guard(log_lock);
  std::string name = executorch::runtime::to_string(error);
  if (name.rfind("Error::", 0) == 0) name = name.substr(7);
  message_text = doing + ": " + name + (log_text.empty() ? "" : ": " + log_text);
  return static_cast<int>(error);
}

// Keeps what the runtime reports of an inference: the calls of kernels and delegates, and the operators inside a delegate.
// Of the calls only the instruction they belong to is kept beside the name; values and allocations are of no interest.
class Tracer final : public EventTracer {
 public:
  struct Event {
    std::string name;
    int64_t instruction;  // its place in the method's chain, -1 outside of it
    bool inside;          // of a delegate
    uint64_t start, end;  // ticks
  };
  std::vector<Event> events;

  void create_event_block(const char*) override {}
  EventTracerEntry start_profiling(const char* name, ChainID, DebugHandle) override { return open(name, false); }
  void end_profiling(EventTracerEntry entry) override { close(entry); }
  EventTracerEntry start_profiling_delegate(const char* name, DelegateDebugIntId id) override {
    return open(named(name, id).c_str(), true);
  }
  void end_profiling_delegate(EventTracerEntry entry, const void*, size_t) override { close(entry); }
  void log_profiling_delegate(const char* name, DelegateDebugIntId id, et_timestamp_t start, et_timestamp_t end, const void*,
                              size_t) override {
    events.push_back({named(name, id), instruction(), true, start, end});
  }
  void track_allocation(AllocatorID, size_t) override {}
  AllocatorID track_allocator(const char*) override { return 0; }
  Result<bool> log_evalue(const EValue&, LoggedEValueType) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, DelegateDebugIntId, const Tensor&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, DelegateDebugIntId, const ArrayRef<Tensor>) override {
    return false;
  }
  Result<bool> log_intermediate_output_delegate(const char*, DelegateDebugIntId, const int&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, DelegateDebugIntId, const bool&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, DelegateDebugIntId, const double&) override { return false; }
  void set_delegation_intermediate_output_filter(EventTracerFilterBase*) override {}

 private:
  static std::string named(const char* name, DelegateDebugIntId id) { return name ? name : std::to_string(id); }
  int64_t instruction() { return current_chain_id() < 0 ? -1 : static_cast<int64_t>(current_debug_handle()); }
  EventTracerEntry open(const char* name, bool inside) {
    EventTracerEntry entry{};
    entry.event_id = static_cast<int64_t>(events.size());
    events.push_back({name, instruction(), inside, 0, 0});
    events.back().start = executorch::runtime::pal_current_ticks();
    return entry;
  }
  void close(const EventTracerEntry& entry) {
    auto now = executorch::runtime::pal_current_ticks();
    // Events of an inference that was forgotten meanwhile are gone.
    if (static_cast<size_t>(entry.event_id) < events.size()) events[entry.event_id].end = now;
  }
};

struct Model {
  std::unique_ptr<Tracer> tracer;  // outlives the module; only where the model is profiled
  std::unique_ptr<Module> module;
  std::string name;  // of the method
  Method* method = nullptr;
  std::vector<std::vector<uint8_t>> buffers;  // of the inputs, then of outputs that the plan gives no memory
  std::vector<size_t> input_bytes;
  std::vector<TensorPtr> inputs;
  std::vector<EValue> values;
  size_t outputs = 0;
};

int prepare_inputs(Model& model, const MethodMeta& meta) {
  for (size_t i = 0; i < meta.num_inputs(); i++) {
    auto tag = meta.input_tag(i);
    if (!tag.ok()) return fail(tag.error(), "input " + std::to_string(i));
    if (*tag != Tag::Tensor) return fail(Error::NotSupported, "input " + std::to_string(i) + " is not a tensor");
    auto info = meta.input_tensor_meta(i);
    if (!info.ok()) return fail(info.error(), "input " + std::to_string(i));
    model.input_bytes.push_back(info->nbytes());
    model.buffers.emplace_back(info->nbytes() + kPadding);
    std::vector<SizesType> sizes(info->sizes().begin(), info->sizes().end());
    model.inputs.push_back(executorch::extension::make_tensor_ptr(sizes, model.buffers.back().data(), info->scalar_type()));
    model.values.emplace_back(*model.inputs.back());
  }
  return 0;
}

int prepare_outputs(Model& model, const MethodMeta& meta) {
  model.outputs = meta.num_outputs();
  for (size_t i = 0; i < model.outputs; i++) {
    auto tag = meta.output_tag(i);
    if (!tag.ok()) return fail(tag.error(), "output " + std::to_string(i));
    if (*tag != Tag::Tensor) return fail(Error::NotSupported, "output " + std::to_string(i) + " is not a tensor");
    auto info = meta.output_tensor_meta(i);
    if (!info.ok()) return fail(info.error(), "output " + std::to_string(i));
    if (info->is_memory_planned()) continue;
    model.buffers.emplace_back(info->nbytes() + kPadding);
    auto error = model.method->set_output_data_ptr(model.buffers.back().data(), info->nbytes(), i);
    if (error != Error::Ok) return fail(error, "memory of output " + std::to_string(i));
  }
  return 0;
}

int load(Model& model, const char* path, bool traced) {
  if (traced) model.tracer = std::make_unique<Tracer>();
  model.module = std::make_unique<Module>(path, Module::LoadMode::Mmap);
  auto error = model.module->load();
  if (error != Error::Ok) return fail(error, "loading the program");
  auto names = model.module->method_names();
  if (!names.ok()) return fail(names.error(), "listing the methods");
  if (names->empty()) return fail(Error::InvalidProgram, "the program has no method");
  model.name = names->count("forward") ? "forward" : *std::min_element(names->begin(), names->end());
  error = model.module->load_method(model.name, nullptr, model.tracer.get());
  if (error != Error::Ok) return fail(error, "loading method '" + model.name + "'");
  auto method = model.module->method(model.name);
  if (!method.ok()) return fail(method.error(), "loading method '" + model.name + "'");
  model.method = *method;
  auto meta = model.module->method_meta(model.name);
  if (!meta.ok()) return fail(meta.error(), "describing method '" + model.name + "'");
  int failed = prepare_inputs(model, *meta);
  return failed ? failed : prepare_outputs(model, *meta);
}

}  // namespace

extern "C" {

// The version of ExecuTorch this was compiled for, as "1.5.1".
const char* ek_et_version(void) { return EDGEKIT_EXECUTORCH_VERSION; }

// Why the last call failed: "<what was done>: <error word>: <the runtime's own messages>". Valid until the next call.
const char* ek_et_message(void) { return message_text.c_str(); }

// Set the number of threads of the process-wide pool; call before ek_et_load. Returns the number it has now, or -1.
int ek_et_threads(int count) {
  begin();
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (!pool) return -1;
  if (count > 0 && pool->get_thread_count() != static_cast<size_t>(count)) {
    if (!pool->_unsafe_reset_threadpool(static_cast<uint32_t>(count))) return -1;
  }
  return static_cast<int>(pool->get_thread_count());
}

// Verify the whole file (offsets, sizes, truncation) without keeping anything of it.
int ek_et_check(const char* path) {
  begin();
  try {
    Module module(path, Module::LoadMode::Mmap);
    auto error = module.load(Program::Verification::InternalConsistency);
    return error == Error::Ok ? 0 : fail(error, "verifying the program");
  } catch (const std::exception& error) {
    return fail(Error::Internal, error.what());
  }
}

// Load a program and its method "forward" (or its only one); *model receives it, NULL on failure. A model that is `traced`
// keeps what ek_et_event() tells of each inference.
int ek_et_load(const char* path, int traced, void** model) {
  begin();
  *model = nullptr;
  try {
    auto fresh = std::make_unique<Model>();
    int failed = load(*fresh, path, traced != 0);
    if (!failed) *model = fresh.release();
    return failed;
  } catch (const std::bad_alloc&) {
    return fail(Error::MemoryAllocationFailed, "loading the program");
  } catch (const std::exception& error) {
    return fail(Error::Internal, error.what());
  }
}

void ek_et_free(void* model) { delete static_cast<Model*>(model); }

// The number of inputs (output == 0) or outputs.
int ek_et_count(void* model, int output) {
  auto& m = *static_cast<Model*>(model);
  return static_cast<int>(output ? m.outputs : m.inputs.size());
}

// Describe a tensor: dtype (the ScalarType code of PyTorch: 0 uint8, 1 int8, 2 int16, 3 int32, 4 int64, 5 float16, 6 float32,
// 7 float64, 11 bool, 15 bfloat16), rank, sizes[16] and its bytes. A size that may vary is given as its upper bound.
int ek_et_describe(void* model, int output, int index, int* dtype, int* rank, int64_t* sizes, uint64_t* bytes) {
  begin();
  auto& m = *static_cast<Model*>(model);
  auto meta = m.module->method_meta(m.name);
  if (!meta.ok()) return fail(meta.error(), "describing method '" + m.name + "'");
  auto info = output ? meta->output_tensor_meta(index) : meta->input_tensor_meta(index);
  if (!info.ok()) return fail(info.error(), "describing a tensor");
  if (info->sizes().size() > kMaxRank) return fail(Error::NotSupported, "a tensor has more than 16 dimensions");
  *dtype = static_cast<int>(info->scalar_type());
  *rank = static_cast<int>(info->sizes().size());
  std::copy(info->sizes().begin(), info->sizes().end(), sizes);
  *bytes = info->nbytes();
  return 0;
}

// The name of the index-th backend that the method delegates to, or NULL when there are no more.
const char* ek_et_backend(void* model, int index) {
  auto& m = *static_cast<Model*>(model);
  auto meta = m.module->method_meta(m.name);
  if (!meta.ok() || static_cast<size_t>(index) >= meta->num_backends()) return nullptr;
  auto name = meta->get_backend_name(index);
  return name.ok() ? *name : nullptr;
}

// Copy `bytes` bytes, which must be the input's size, into its buffer.
int ek_et_set(void* model, int index, const void* data, uint64_t bytes) {
  begin();
  auto& m = *static_cast<Model*>(model);
  if (index < 0 || static_cast<size_t>(index) >= m.inputs.size()) return fail(Error::InvalidArgument, "there is no such input");
  if (bytes != m.input_bytes[index]) {
    return fail(Error::InvalidArgument, "the input takes " + std::to_string(m.input_bytes[index]) + " bytes");
  }
  std::memcpy(m.buffers[index].data(), data, bytes);
  return 0;
}

// One inference; the outputs exist on return. Nothing is allocated here. The inputs are set anew each time, because the
// memory plan may use their place for something else later in the inference.
int ek_et_run(void* model) {
  auto& m = *static_cast<Model*>(model);
  for (size_t i = 0; i < m.values.size(); i++) {
    auto error = m.method->set_input(m.values[i], i);
    if (error != Error::Ok) return fail(error, "setting input " + std::to_string(i));
  }
  auto error = m.method->execute();
  return error == Error::Ok ? 0 : fail(error, "executing method '" + m.name + "'");
}

// The index-th event of a traced model since ek_et_forget(), in the order of their beginnings but for those inside a delegate,
// which it reports at its end; name, instruction (its place in the method's chain, -1 outside of it), whether it is inside a
// delegate, start and end in nanoseconds. 0, or -1 when there are no more. The name is valid until the next inference.
int ek_et_event(void* model, uint64_t index, const char** name, int64_t* instruction, int* inside, uint64_t* start,
                uint64_t* end) {
  auto& m = *static_cast<Model*>(model);
  if (!m.tracer || index >= m.tracer->events.size()) return -1;
  const auto& event = m.tracer->events[index];
  *name = event.name.c_str();
  *instruction = event.instruction;
  *inside = event.inside;
  *start = executorch::runtime::ticks_to_ns(event.start);
  *end = executorch::runtime::ticks_to_ns(event.end);
  return 0;
}

// Drop the events of the inferences so far.
void ek_et_forget(void* model) {
  auto& m = *static_cast<Model*>(model);
  if (m.tracer) m.tracer->events.clear();
}

// The current bytes of an output: where a size may vary, those of the last inference. 0 when there is no such output.
uint64_t ek_et_output_bytes(void* model, int index) {
  auto& m = *static_cast<Model*>(model);
  if (index < 0 || static_cast<size_t>(index) >= m.outputs) return 0;
  return m.method->get_output(index).toTensor().nbytes();
}

// Copy an output of the last inference; `bytes` must be its current size.
int ek_et_get(void* model, int index, void* data, uint64_t bytes) {
  begin();
  auto& m = *static_cast<Model*>(model);
  if (index < 0 || static_cast<size_t>(index) >= m.outputs) return fail(Error::InvalidArgument, "there is no such output");
  auto tensor = m.method->get_output(index).toTensor();
  if (tensor.nbytes() != bytes) {
    return fail(Error::InvalidArgument, "the output has " + std::to_string(tensor.nbytes()) + " bytes");
  }
  if (bytes && !tensor.const_data_ptr()) return fail(Error::InvalidState, "the output has no data");
  std::memcpy(data, tensor.const_data_ptr(), bytes);
  return 0;
}

}  // extern "C"
