# Puts few_rows.cpp into llama.cpp's CPU backend, without a change to llama.cpp's sources:
#   cmake -DCMAKE_PROJECT_ggml_INCLUDE=/path/to/few_rows.cmake ...
# CMake reads this file when ggml's project begins, and calls the function when all of its targets are there.

set(TWD_FEW_ROWS_SOURCE "${CMAKE_CURRENT_LIST_DIR}/few_rows.cpp")

function(twd_add_few_rows)
    if(NOT TARGET ggml-cpu OR NOT GGML_LLAMAFILE)
        message(STATUS "twd: this build has no place for the kernels of few rows")
        return()
    endif()
    target_sources(ggml-cpu PRIVATE "${TWD_FEW_ROWS_SOURCE}")
    set_source_files_properties(
        "${PROJECT_SOURCE_DIR}/src/ggml-cpu/llamafile/sgemm.cpp" TARGET_DIRECTORY ggml-cpu
        PROPERTIES COMPILE_DEFINITIONS llamafile_sgemm=llamafile_sgemm_of_llama)
    message(STATUS "twd: ggml-cpu has the kernels of few rows")
endfunction()

cmake_language(DEFER CALL twd_add_few_rows)
