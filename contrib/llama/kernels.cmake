# Puts our kernels into llama.cpp's CPU backend, without a change to llama.cpp's sources:
#   cmake -DCMAKE_PROJECT_ggml_INCLUDE=/path/to/kernels.cmake ...
# CMake reads this file when ggml's project begins, and calls the function when all of its targets are there. llama.cpp's
# own functions get other names, so that ours stand in front of them.

set(TWD_KERNELS_FOLDER "${CMAKE_CURRENT_LIST_DIR}")

function(twd_stand_before source name)
    set_property(
        SOURCE "${PROJECT_SOURCE_DIR}/src/ggml-cpu/${source}" TARGET_DIRECTORY ggml-cpu
        APPEND PROPERTY COMPILE_DEFINITIONS "${name}=${name}_of_llama")
endfunction()

# The cache of experts sees each product of experts before it is computed.
function(twd_add_experts)
    find_package(Threads REQUIRED)
    foreach(part experts experts_room experts_reading experts_ahead experts_replay experts_calls)
        target_sources(ggml-cpu PRIVATE "${TWD_KERNELS_FOLDER}/${part}.cpp")
    endforeach()
    target_link_libraries(ggml-cpu PRIVATE Threads::Threads)
    twd_stand_before(traits.cpp ggml_cpu_extra_compute_forward)
endfunction()

# RPC workers check graphs that other machines describe.
function(twd_add_rpc_door)
    if(NOT TARGET ggml-rpc)
        return()
    endif()
    set(folder "${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
    target_sources(ggml-rpc PRIVATE "${folder}/graph_check.cpp" "${folder}/graph_rules.cpp")
    set_property(SOURCE "${PROJECT_SOURCE_DIR}/src/ggml-rpc/ggml-rpc.cpp" TARGET_DIRECTORY ggml-rpc
                 APPEND PROPERTY COMPILE_DEFINITIONS ggml_backend_graph_compute=twd_compute_checked)
    message(STATUS "twd: RPC workers check graphs")
endfunction()

# Where llama.cpp itself is built, too: a model's file can be mapped without being read.
function(twd_add_mapping)
    if(TARGET llama AND CMAKE_SYSTEM_NAME STREQUAL "Linux" AND EXISTS "${PROJECT_SOURCE_DIR}/src/llama-mmap.cpp")
        target_sources(llama PRIVATE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/mapping.cpp")
        set_property(SOURCE "${PROJECT_SOURCE_DIR}/src/llama-mmap.cpp" TARGET_DIRECTORY llama
                     APPEND PROPERTY COMPILE_DEFINITIONS mmap=twd_mmap)
        message(STATUS "twd: llama can map files without reading them")
    endif()
endfunction()

# Where llama.cpp itself is built, too: several tokens of a text are made in one call. No multiplication and addition may
# become one operation, since Python's picks have two.
function(twd_add_steps)
    if(TARGET llama)
        set(NAMES steps.cpp picking.cpp block_picks.cpp device_rows.cpp)
        list(TRANSFORM NAMES PREPEND "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/" OUTPUT_VARIABLE FILES)
        target_sources(llama PRIVATE ${FILES})
        if(NOT MSVC)
            set_source_files_properties(${FILES} TARGET_DIRECTORY llama PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=off")
        endif()
        message(STATUS "twd: llama makes several tokens in one call")
    endif()
endfunction()

# Where llama.cpp itself is built, too: more architectures get snapshots of their recurrent states. Those of Mamba-1 are
# computed by a function of the CPU backend.
function(twd_add_snapshots)
    set(source "${PROJECT_SOURCE_DIR}/src")
    if(NOT TARGET llama OR NOT TWD_HAS_KERNELS OR NOT EXISTS "${source}/models/mamba-base.cpp")
        return()
    endif()
    target_sources(llama PRIVATE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/snapshots.cpp")
    set_source_files_properties("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/snapshots.cpp" TARGET_DIRECTORY llama
                                PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    target_link_libraries(llama PRIVATE ggml-cpu)
    set_property(SOURCE "${source}/llama-arch.cpp" TARGET_DIRECTORY llama APPEND PROPERTY COMPILE_DEFINITIONS
                 llm_arch_supports_rs_rollback=llm_arch_supports_rs_rollback_of_llama)
    set_property(SOURCE "${source}/models/mamba-base.cpp" TARGET_DIRECTORY llama APPEND PROPERTY COMPILE_DEFINITIONS
                 build_mamba_layer=build_mamba_layer_of_llama)
    set_property(SOURCE "${source}/models/delta-net-base.cpp" TARGET_DIRECTORY llama APPEND PROPERTY COMPILE_DEFINITIONS
                 build_conv_state=build_conv_state_of_llama)
    set_property(SOURCE "${source}/llama-context.cpp" TARGET_DIRECTORY llama APPEND PROPERTY COMPILE_DEFINITIONS
                 n_tensors=twd_graph_tensors)
    message(STATUS "twd: llama keeps snapshots of more recurrent states")
endfunction()

function(twd_add_kernels)
    if(NOT TARGET ggml-cpu OR GGML_CPU_ALL_VARIANTS OR NOT GGML_LLAMAFILE)
        message(STATUS "twd: this build has no place for our kernels")
        return()
    endif()
    target_sources(ggml-cpu PRIVATE "${TWD_KERNELS_FOLDER}/few_rows.cpp" "${TWD_KERNELS_FOLDER}/attention.cpp")
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU") # its own headers, where they mean "undefined"
        set_source_files_properties(
            "${TWD_KERNELS_FOLDER}/few_rows.cpp" "${TWD_KERNELS_FOLDER}/attention.cpp" TARGET_DIRECTORY ggml-cpu
            PROPERTIES COMPILE_OPTIONS "-Wno-uninitialized;-Wno-maybe-uninitialized")
    endif()
    twd_stand_before(llamafile/sgemm.cpp llamafile_sgemm)
    if(EXISTS "${PROJECT_SOURCE_DIR}/src/ggml-cpu/tiled/tiled.cpp")
        twd_stand_before(tiled/tiled.cpp ggml_compute_forward_mul_mat_tiled)
        twd_stand_before(tiled/tiled.cpp ggml_compute_forward_mul_mat_id_tiled)
        set_property(SOURCE "${TWD_KERNELS_FOLDER}/few_rows.cpp" TARGET_DIRECTORY ggml-cpu
                     APPEND PROPERTY COMPILE_DEFINITIONS TWD_TILED)
    endif()
    twd_stand_before(ops.cpp ggml_compute_forward_flash_attn_ext)
    foreach(operation ssm_scan argsort top_k)
        twd_stand_before(ops.cpp "ggml_compute_forward_${operation}")
    endforeach()
    target_sources(ggml-cpu PRIVATE "${TWD_KERNELS_FOLDER}/trusting_ops.cpp" "${TWD_KERNELS_FOLDER}/scan_snapshots.cpp")
    twd_add_experts()
    target_sources(ggml-cpu PRIVATE "${TWD_KERNELS_FOLDER}/threads.cpp")
    set_property(SOURCE "${PROJECT_SOURCE_DIR}/src/ggml-cpu/ggml-cpu.cpp" TARGET_DIRECTORY ggml-cpu
                 APPEND PROPERTY COMPILE_DEFINITIONS ggml_graph_compute=twd_graph_compute)
    if(NOT MSVC) # experts chosen by another machine's graph: only an `assert` looks whether there are so many
        set_property(SOURCE "${PROJECT_SOURCE_DIR}/src/ggml-cpu/ggml-cpu.c" TARGET_DIRECTORY ggml-cpu
                     APPEND PROPERTY COMPILE_OPTIONS "-UNDEBUG")
    endif()
    set(TWD_HAS_KERNELS TRUE CACHE INTERNAL "")
    message(STATUS "twd: ggml-cpu has our kernels")
endfunction()

cmake_language(DEFER CALL twd_add_kernels)
cmake_language(DEFER CALL twd_add_rpc_door)
get_directory_property(TWD_ABOVE PARENT_DIRECTORY)
if(TWD_ABOVE)
    cmake_language(DEFER DIRECTORY "${TWD_ABOVE}" CALL twd_add_mapping)
    cmake_language(DEFER DIRECTORY "${TWD_ABOVE}" CALL twd_add_steps)
    cmake_language(DEFER DIRECTORY "${TWD_ABOVE}" CALL twd_add_snapshots)
endif()
