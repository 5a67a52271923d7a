//! ixpmanager.conf: whatever the text is, settings or an error that says where, and never a panic.

#![no_main]

use ixflow::control::config::{Config, ConfigError};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for text in [text.to_owned(), format!("<ixp>\n{text}\n</ixp>")] {
        match Config::from_text("fuzz.conf", &text, &[]) {
            Ok(config) => assert!(!config.to_toml().is_empty()),
            Err(error @ (ConfigError::Syntax(_) | ConfigError::Invalid(_))) => {
                assert!(error.to_string().starts_with("fuzz.conf:"), "{error}");
            }
            Err(_) => {}
        }
    }
});
