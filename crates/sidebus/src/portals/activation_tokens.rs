//! Activation tokens that the host has given to the guest.
//!
//! A token lets a program take the focus. One that the guest makes up is nothing to the host's compositor, or is
//! another program's: only what the host issued goes back to it.

use std::collections::VecDeque;

use super::values::{Value, text, unwrapped};
use zbus::Variant;

/// How many are remembered; they are used at once or not at all.
const MOST: usize = 64;
/// Longer ones are not remembered (bytes).
const LONGEST: usize = 1024;

/// Tokens that were seen on their way to the guest.
#[derive(Debug, Default)]
pub struct ActivationTokens(VecDeque<String>);

impl ActivationTokens {
    /// Remembers the tokens in what the host says: values of the key `activation-token` or `activation_token` in any
    /// dictionary of it.
    pub fn learn(&mut self, value: &Value) {
        match value {
            Variant::Variant(inner) => self.learn(inner),
            Variant::Array(array) => array.inner().iter().for_each(|item| self.learn_from(item)),
            Variant::Structure(structure) => {
                structure
                    .fields()
                    .iter()
                    .for_each(|item| self.learn_from(item));
            }
            Variant::Dict(dict) => {
                for (key, value) in dict.iter() {
                    if let Variant::Str(key) = key
                        && matches!(key.as_str(), "activation-token" | "activation_token")
                        && let Ok(value) = super::values::owned(value)
                        && let Some(token) = text(unwrapped(&value))
                    {
                        self.remember(token);
                    } else {
                        self.learn_from(value);
                    }
                }
            }
            _ => {}
        }
    }

    fn learn_from(&mut self, value: &Variant<'_>) {
        if let Ok(value) = super::values::owned(value) {
            self.learn(&value);
        }
    }

    fn remember(&mut self, token: &str) {
        if token.is_empty() || token.len() > LONGEST || self.issued(token) {
            return;
        }
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(token.to_owned());
    }

    /// Whether the host issued it.
    pub fn issued(&self, token: &str) -> bool {
        self.0.iter().any(|known| known == token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portals::values::{array, dictionary};

    #[test]
    fn a_token_that_the_host_gave_is_known_wherever_it_stood() {
        let mut tokens = ActivationTokens::default();
        let data = dictionary([("activation-token".to_owned(), Value::from("t1"))]);
        let parameter = array("v", vec![Variant::Variant(Box::new(data))]).unwrap();
        tokens.learn(&parameter);
        tokens.learn(&dictionary([(
            "activation_token".to_owned(),
            Value::from("t2"),
        )]));
        assert!(tokens.issued("t1") && tokens.issued("t2"));
        assert!(!tokens.issued("made-up") && !tokens.issued(""));
    }

    #[test]
    fn old_tokens_are_forgotten() {
        let mut tokens = ActivationTokens::default();
        for number in 0..=MOST {
            tokens.remember(&number.to_string());
        }
        assert!(!tokens.issued("0") && tokens.issued("1"));
        assert_eq!(tokens.0.len(), MOST);
    }
}
