//! `ApplicationService` over the scheduler.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    pb::{self, application_service_server::ApplicationService},
    status::to_status,
};

/// Answers `ApplicationService`.
#[derive(Debug, Clone)]
pub(super) struct ApplicationServer(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl ApplicationService for ApplicationServer {
    async fn create(
        &self,
        request: Request<pb::CreateApplicationRequest>,
    ) -> Result<Response<pb::Application>, Status> {
        let (headers, _, request) = request.into_parts();
        let path = self.0.access.application(&headers, &request.application)?;
        let created = self.0.scheduler.create_application(&path).await;
        Ok(Response::new(
            created.map_err(|err| to_status(&err))?.into(),
        ))
    }

    async fn get(
        &self,
        request: Request<pb::GetApplicationRequest>,
    ) -> Result<Response<pb::Application>, Status> {
        let (headers, _, request) = request.into_parts();
        let path = self.0.access.application(&headers, &request.application)?;
        let found = self.0.scheduler.application(&path).await;
        Ok(Response::new(found.map_err(|err| to_status(&err))?.into()))
    }

    async fn list(
        &self,
        request: Request<pb::ListApplicationsRequest>,
    ) -> Result<Response<pb::ListApplicationsResponse>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let found = self.0.scheduler.applications(&tenant).await;
        let found = found.map_err(|err| to_status(&err))?;
        let applications = found.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ListApplicationsResponse { applications }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteApplicationRequest>,
    ) -> Result<Response<()>, Status> {
        let (headers, _, request) = request.into_parts();
        let path = self.0.access.application(&headers, &request.application)?;
        let deleted = self.0.scheduler.delete_application(&path).await;
        deleted.map_err(|err| to_status(&err))?;
        Ok(Response::new(()))
    }
}
