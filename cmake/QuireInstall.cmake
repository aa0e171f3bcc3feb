# The two programs: build/PRESET/bin, and installed so that their libraries are found beside
# them wherever the folder goes (deploy/install.sh puts those there).
set(beside "$ORIGIN/../lib/quire")
foreach(program quire-server quire)
  if(TARGET ${program})
    set_target_properties(${program} PROPERTIES
      RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin"
      INSTALL_RPATH "${beside}/torch/lib:${beside}/nvidia/cu13/lib:${beside}/system")
    # RPATH, not RUNPATH: it also holds for the libraries of libraries.
    target_link_options(${program} PRIVATE "LINKER:--disable-new-dtags")
    install(TARGETS ${program} RUNTIME DESTINATION bin)
  endif()
endforeach()
