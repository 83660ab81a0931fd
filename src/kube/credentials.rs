//! Who we are at the API server: a fixed token, or one that kubelet replaces in its file.

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

/// How long a token file's content is used before the file is read again.
const TOKEN_FILE_TTL: Duration = Duration::from_secs(60);

/// What goes into the Authorization header.
pub(super) enum Credentials {
    /// Nothing: a client certificate, or nobody.
    None,
    /// A token that stays.
    Token(SecretText),
    /// A token that is replaced in its file before it expires.
    File(TokenFile),
}

impl Credentials {
    /// The token to send now.
    pub(super) async fn token(&self, now: Instant) -> Result<Option<SecretText>, Error> {
        match self {
            Self::None => Ok(None),
            Self::Token(token) => Ok(Some(token.clone())),
            Self::File(file) => file.token(now).await.map(Some),
        }
    }

    /// The API server did not accept the token: the next request reads the file again.
    pub(super) fn invalidate(&self) {
        if let Self::File(file) = self {
            file.cached.store(None);
        }
    }
}

/// A token in a file, read at most once a minute. No lock is involved; two readers at once read the same file twice.
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

    /// The file's token, at most a minute old; an older one only while the file cannot be read.
    async fn token(&self, now: Instant) -> Result<SecretText, Error> {
        let cached = self.cached.load_full();
        if let Some(cached_token) = cached.as_ref().filter(|held| now.duration_since(held.read_at) < TOKEN_FILE_TTL) {
            return Ok(cached_token.token.clone());
        }
        match (read_token(&self.path).await, cached) {
            (Ok(token), _) => {
                self.cached.store(Some(Arc::new(CachedToken { token: token.clone(), read_at: now })));
                Ok(token)
            }
            (Err(error), Some(previous)) => {
                tracing::warn!(%error, "using the Kubernetes token read before");
                Ok(previous.token.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

async fn read_token(path: &Path) -> Result<SecretText, Error> {
    let error = |what: &str| {
        Error::new(Cause::KubernetesConfig, format!("the Kubernetes token file {} {what}", path.display()))
            .with_fix("correct the path in the kubeconfig, or give this process the file")
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
