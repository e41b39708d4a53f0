//! A permission that was asked for, and may not have been given yet.
//!
//! Polkit takes some milliseconds to answer. In them what has no effect can be prepared; nothing that the permission is
//! for may be done before [`Permission::granted`] has returned without an error.

use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Polkit's answer, or the way to it.
#[derive(Debug)]
pub struct Permission(Option<JoinHandle<Result<()>>>);

impl Permission {
    /// It has been given.
    pub fn given() -> Self {
        Self(None)
    }

    /// It is being asked for.
    pub fn asked(answer: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(answer)))
    }

    /// Whether it is known to have been given, without waiting.
    pub fn is_given(&self) -> bool {
        self.0.is_none()
    }

    /// Waits for the answer. Once it was yes, it stays yes; after an error it is not to be asked again.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`]
    pub async fn granted(&mut self) -> Result<()> {
        let Some(asked) = &mut self.0 else {
            return Ok(());
        };
        asked.await.map_err(|error| {
            Error::NotAuthorized(format!("the question to polkit was broken off: {error}"))
        })??;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Permission {
    fn drop(&mut self) {
        if let Some(asked) = &self.0 {
            asked.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_given_when_the_answer_is_yes_and_not_before() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut permission = Permission::asked(async move {
            told.await.expect("it is said");
            Ok(())
        });
        assert!(!permission.is_given());
        tell.send(()).expect("it is waited for");
        permission.granted().await.expect("yes");
        assert!(permission.is_given());
        permission.granted().await.expect("still yes");
    }

    #[tokio::test]
    async fn no_is_an_error_and_so_is_no_answer() {
        let no = async { Err(Error::NotAuthorized("no".to_owned())) };
        let mut permission = Permission::asked(no);
        assert!(matches!(
            permission.granted().await,
            Err(Error::NotAuthorized(_))
        ));
        assert!(!permission.is_given());
        let mut broken = Permission::asked(std::future::pending());
        broken.0.as_ref().expect("asked").abort();
        assert!(matches!(
            broken.granted().await,
            Err(Error::NotAuthorized(_))
        ));
    }
}
