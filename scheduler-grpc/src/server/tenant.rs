//! Who calls: the tenant in the request's headers.

use scheduler_core::{ApplicationPath, PipelinePath, TenantName};
use tonic::{Status, metadata::MetadataMap};

use crate::{TENANT_DEFAULT, TENANT_HEADER, status::to_status};

/// What is done with a call that names no tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is a call of the tenant `default`: for development, on loopback.
    Open,
    /// It is refused. Whoever is in front of this server has proved the name.
    TenantRequired,
}

impl Access {
    /// The tenant that calls.
    pub(super) fn tenant(self, headers: &MetadataMap) -> Result<TenantName, Status> {
        let name = match (self, headers.get(TENANT_HEADER)) {
            (Self::Open, None) => TENANT_DEFAULT,
            (Self::TenantRequired, None) => {
                let text = format!("the header {TENANT_HEADER} must name the tenant");
                return Err(Status::unauthenticated(text));
            }
            (_, Some(name)) => name
                .to_str()
                .map_err(|_| Status::invalid_argument("the tenant's name is not ASCII"))?,
        };
        TenantName::try_from(name).map_err(|fault| to_status(&fault.into()))
    }

    /// The application that is meant.
    pub(super) fn application(
        self,
        headers: &MetadataMap,
        application: &str,
    ) -> Result<ApplicationPath, Status> {
        Ok(ApplicationPath {
            tenant: self.tenant(headers)?,
            application: application
                .try_into()
                .map_err(|fault: scheduler_core::Invalid| to_status(&fault.into()))?,
        })
    }

    /// The pipeline that is meant.
    pub(super) fn pipeline(
        self,
        headers: &MetadataMap,
        application: &str,
        pipeline: &str,
    ) -> Result<PipelinePath, Status> {
        let application = self.application(headers, application)?;
        Ok(PipelinePath {
            tenant: application.tenant,
            application: application.application,
            pipeline: pipeline
                .try_into()
                .map_err(|fault: scheduler_core::Invalid| to_status(&fault.into()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_server_takes_a_nameless_call_as_default() {
        let headers = MetadataMap::new();
        assert_eq!(Access::Open.tenant(&headers).unwrap().as_str(), "default");
        let refused = Access::TenantRequired.tenant(&headers).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let mut headers = MetadataMap::new();
        headers.insert(TENANT_HEADER, "Not A Name".parse().unwrap());
        assert!(Access::Open.tenant(&headers).is_err());
    }
}
