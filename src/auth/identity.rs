//! [`Identity`]: who somebody is, whichever way they have proved it.

use serde::{Deserialize, Serialize};

/// What stands before the names of those who work for the registry itself.
pub const OURS: &str = "dvcr:";

/// What Kubernetes puts before the names of service accounts.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Who somebody is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user's name; none: nobody knows.
    #[serde(rename = "sub", default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Groups that the user is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The Kubernetes namespace that the user is of, if it is a service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Identity {
    /// Somebody who has said nothing.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// A user by name.
    #[must_use]
    pub fn user(name: &str) -> Self {
        Self { user: Some(name.to_owned()), ..Self::default() }
    }

    /// A service account of a Kubernetes cluster, from the name that Kubernetes gives it:
    /// `system:serviceaccount:<namespace>:<name>`.
    #[must_use]
    pub fn service_account(subject: &str) -> Option<Self> {
        let (namespace, name) = subject.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        (is_name(namespace) && is_name(name)).then(|| Self {
            user: Some(subject.to_owned()),
            // As Kubernetes has it.
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
            namespace: Some(namespace.to_owned()),
        })
    }

    /// Whether nobody knows who it is.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.user.is_none()
    }

    /// `<namespace>/<name>` of a service account.
    #[must_use]
    pub fn account(&self) -> Option<String> {
        let namespace = self.namespace.as_deref()?;
        let name = self.user.as_deref()?.strip_prefix(SERVICE_ACCOUNT)?.strip_prefix(namespace)?;
        Some(format!("{namespace}/{}", name.strip_prefix(':')?))
    }

    /// The name, if it is known.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The name for logs.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.user.as_deref().unwrap_or("anonymous")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_is_of_its_namespace() {
        let found = Identity::service_account("system:serviceaccount:team-a:builder").unwrap();
        assert_eq!(found.namespace.as_deref(), Some("team-a"));
        assert_eq!(found.account().as_deref(), Some("team-a/builder"));
        assert!(found.groups.contains(&"system:serviceaccounts:team-a".to_owned()));
    }

    #[test]
    fn what_only_looks_like_a_service_account_is_none() {
        for subject in [
            "system:serviceaccount:a",
            "system:serviceaccount::b",
            "system:serviceaccount:a:",
            "system:serviceaccount:a/b:c",
            "system:serviceaccount:*:c",
            "system:serviceaccount:a:b:c",
            "system:node:a",
            "alice",
        ] {
            assert_eq!(Identity::service_account(subject), None, "{subject}");
        }
        assert_eq!(Identity::user("system:serviceaccount:a:b").account(), None);
    }
}
