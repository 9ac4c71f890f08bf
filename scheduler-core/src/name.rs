//! Names that users choose: validated once, here, and safe in paths, topics, SQL and DNS ever after.

use std::{fmt, sync::Arc};

use crate::Invalid;

/// The longest name in bytes.
pub const NAME_LEN_MAX: usize = 40;

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= NAME_LEN_MAX
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|byte| edge(byte) || *byte == b'-')
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $field:literal;)+) => {$(
        $(#[$doc])*
        ///
        /// 1 to 40 bytes of `[a-z]([-a-z0-9]*[a-z0-9])?`.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Invalid;

            fn try_from(text: &str) -> Result<Self, Invalid> {
                if is_name(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(Invalid::new(
                        $field,
                        "must be 1 to 40 of the characters a-z, 0-9 and -, start with a letter and not end with -",
                    ))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

names! {
    /// The client that pays: owns applications; the unit of isolation.
    TenantName, "tenant";
    /// A named group of pipelines of one tenant.
    ApplicationName, "application";
    /// A pipeline's name within its application.
    PipelineName, "pipeline";
    /// The pipelines that one fleet of workers serves.
    PoolName, "pool";
    /// A container that runs command lines.
    ExecutorName, "executor";
}

/// Where an application is: the tenant is part of every path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplicationPath {
    /// The owner.
    pub tenant: TenantName,
    /// The name within the tenant.
    pub application: ApplicationName,
}

/// Where a pipeline is: the tenant is part of every path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelinePath {
    /// The owner.
    pub tenant: TenantName,
    /// The application within the tenant.
    pub application: ApplicationName,
    /// The name within the application.
    pub pipeline: PipelineName,
}

impl PipelinePath {
    /// The path of the application that holds this pipeline.
    #[must_use]
    pub fn application_path(&self) -> ApplicationPath {
        ApplicationPath {
            tenant: self.tenant.clone(),
            application: self.application.clone(),
        }
    }
}

/// The path of a pipeline from three texts.
///
/// # Errors
/// Names the part that is no name.
pub fn path(tenant: &str, application: &str, pipeline: &str) -> Result<PipelinePath, Invalid> {
    Ok(PipelinePath {
        tenant: tenant.try_into()?,
        application: application.try_into()?,
        pipeline: pipeline.try_into()?,
    })
}

impl fmt::Display for ApplicationPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.application)
    }
}

impl fmt::Display for PipelinePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.application, self.pipeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented() {
        let longest = "a".repeat(NAME_LEN_MAX);
        for good in ["a", "ocr", "a-1", "a--b", longest.as_str()] {
            assert!(PipelineName::try_from(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(NAME_LEN_MAX + 1);
        for bad in [
            "",
            "-a",
            "a-",
            "1a",
            "A",
            "a.b",
            "..",
            "a/b",
            "a b",
            "é",
            "a\n",
            too_long.as_str(),
        ] {
            assert!(PipelineName::try_from(bad).is_err(), "{bad:?}");
        }
    }
}
