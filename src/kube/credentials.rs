//! Credentials for the API server: a fixed token, or a token file that kubelet updates.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::{
    error::{Cause, Error},
    secret::SecretText,
};

/// Interval after which a token file is read again.
const TOKEN_FILE_TTL: Duration = Duration::from_secs(60);

/// Source of the `Authorization` header.
pub(super) enum Credentials {
    /// No header: client certificate or anonymous access.
    None,
    /// Fixed token.
    Token(SecretText),
    /// Token in a file, which is replaced before the token expires.
    File(TokenFile),
}

impl Credentials {
    /// Returns the token to send now, if any.
    pub(super) async fn token(&self, now: Instant) -> Result<Option<SecretText>, Error> {
        match self {
            Self::None => Ok(None),
            Self::Token(token) => Ok(Some(token.clone())),
            Self::File(file) => file.token(now).await.map(Some),
        }
    }

    /// Drops the cached token because the API server rejected it. The next request reads the file again.
    pub(super) fn invalidate(&self) {
        if let Self::File(file) = self {
            file.cached.store(None);
        }
    }
}

/// Token file, read at most once a minute. It uses no lock, so two concurrent requests may both read the file.
pub(super) struct TokenFile {
    path: PathBuf,
    cached: ArcSwapOption<CachedToken>,
}

struct CachedToken {
    token: SecretText,
    read_at: Instant,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, cached: ArcSwapOption::empty() }
    }

    /// Returns the file's token, read at most a minute ago. Returns the previous token while the file cannot be read.
    async fn token(&self, now: Instant) -> Result<SecretText, Error> {
        let cached = self.cached.load_full();
        if let Some(cached_token) = cached.as_ref().filter(|cached| now.duration_since(cached.read_at) < TOKEN_FILE_TTL)
        {
            return Ok(cached_token.token.clone());
        }
        match (read_token(&self.path).await, cached) {
            (Ok(token), _) => {
                self.cached.store(Some(Arc::new(CachedToken { token: token.clone(), read_at: now })));
                Ok(token)
            }
            (Err(error), Some(previous)) => {
                tracing::warn!(%error, "cannot read the Kubernetes token file, using the previous token");
                Ok(previous.token.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

async fn read_token(path: &Path) -> Result<SecretText, Error> {
    let error = |problem: &str| {
        Error::new(Cause::KubernetesConfig, format!("the Kubernetes token file {} {problem}", path.display()))
            .with_fix("correct the path in the kubeconfig, or make the file readable for this process")
    };
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|e| error("cannot be read").with_server_message(e.to_string()))?;
    let text = zeroize::Zeroizing::new(text);
    match text.trim() {
        "" => Err(error("is empty")),
        token => Ok(SecretText::from(token)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct TokenFileFixture {
        folder: tempfile::TempDir,
        file: TokenFile,
        start: Instant,
    }

    impl TokenFileFixture {
        fn new(token: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = TokenFile::new(folder.path().join("token"));
            let this = Self { folder, file, start: Instant::now() };
            this.write(token);
            this
        }

        fn write(&self, token: &str) {
            fs::write(self.folder.path().join("token"), token).unwrap();
        }

        async fn token_after(&self, seconds: u64) -> String {
            let token = self.file.token(self.start + Duration::from_secs(seconds)).await;
            token.map_or_else(|e| e.to_string(), |t| t.expose().to_owned())
        }
    }

    #[tokio::test]
    async fn token_file_is_reread_after_60s() {
        let rotated = TokenFileFixture::new("one\n");
        assert_eq!(rotated.token_after(0).await, "one");
        rotated.write("two");
        assert_eq!(rotated.token_after(59).await, "one");
        assert_eq!(rotated.token_after(60).await, "two");
        rotated.write("three");
        assert_eq!(rotated.token_after(119).await, "two");
        assert_eq!(rotated.token_after(120).await, "three");
    }

    #[tokio::test]
    async fn token_file_unreadable_keeps_last_token() {
        let rotated = TokenFileFixture::new("one");
        rotated.token_after(0).await;
        rotated.write("");
        assert_eq!(rotated.token_after(61).await, "one");
        rotated.write("two");
        assert_eq!(rotated.token_after(62).await, "two");
    }

    #[tokio::test]
    async fn credentials_invalidate_rereads_token_file() {
        let rotated = TokenFileFixture::new("one");
        rotated.token_after(0).await;
        rotated.write("two");
        let credentials = Credentials::File(rotated.file);
        credentials.invalidate();
        let token = credentials.token(rotated.start).await.unwrap().unwrap();
        assert_eq!(token.expose(), "two");
    }

    #[tokio::test]
    async fn token_file_empty_or_missing_is_named() {
        let rotated = TokenFileFixture::new(" \n");
        assert!(rotated.token_after(0).await.contains("token is empty"));
        fs::remove_file(rotated.folder.path().join("token")).unwrap();
        assert!(rotated.token_after(0).await.contains("token cannot be read (it said: No such file"));
    }
}
