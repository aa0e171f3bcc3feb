// Compiled into every test that links quire_test_support; ThreadSanitizer asks for it by
// name.
#if defined(__SANITIZE_THREAD__)

extern "C" const char* __tsan_default_suppressions();

// Debian's Abseil is built without ThreadSanitizer, so the reference count that orders
// the last use of a Status shared by two threads before its deletion is invisible.
extern "C" const char* __tsan_default_suppressions() {
  return "race:absl::debian3::Status::Unref\n";
}

#endif
