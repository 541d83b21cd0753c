"""Addresses: one administration site under the name of each application, and the health page of this run."""

import importlib

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path

from sheaf.common.apps.project import ADMIN_MODULES
from sheaf.common.apps.server import SITES

__all__ = ["health", "no_icon", "urlpatterns"]


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok", content_type="text/plain")


def no_icon(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204)


urlpatterns = [
    *(path(f"{site}/", importlib.import_module(ADMIN_MODULES[site]).site.urls) for site in SITES),
    path(f"health/{settings.HEALTH_TOKEN}", health),
    path("favicon.ico", no_icon),
]
