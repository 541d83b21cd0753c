"""The Django project that holds the four applications, configured in code: loopback only, no debugging, secrets per run."""

import importlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sheaf.common.apps.server import SITES

__all__ = ["ADMIN_MODULES", "application", "session_cookie", "setup"]

POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
# written out, so that what a recording depends on can be read off the source
ADMIN_MODULES = {
    "hospital": "sheaf.common.apps.hospital.admin", "payables": "sheaf.common.apps.payables.admin",
    "support": "sheaf.common.apps.support.admin", "store": "sheaf.common.apps.store.admin",
}  # fmt: skip
DJANGO_APPS = ["auth", "contenttypes", "sessions", "messages", "staticfiles"]
SEARCH_FORM = """{% load i18n static %}<div id="toolbar"><form id="changelist-search" method="get" role="search"><div>
<label for="searchbar"><img src="{% static "admin/img/search.svg" %}" alt=""></label>
<input type="text" size="40" name="{{ search_var }}" value="{{ cl.query }}" id="searchbar"
 aria-label="Search {{ cl.opts.verbose_name_plural }}">
<input type="submit" value="Search">{% if show_result_count %}
<span class="small quiet">{{ cl.result_count }} result{{ cl.result_count|pluralize }}
(<a href="?">{{ cl.full_result_count }} total</a>)</span>{% endif %}
{% for pair in cl.params.items %}{% if pair.0 != search_var %}
<input type="hidden" name="{{ pair.0 }}" value="{{ pair.1 }}">{% endif %}{% endfor %}</div></form></div>"""


def setup(database: Path, token: str) -> None:
    """Configures Django for this process; ``token`` names the health page. Once per process."""
    import django
    from django.conf import settings

    settings.configure(
        DEBUG=False, SECRET_KEY=secrets.token_urlsafe(50), ALLOWED_HOSTS=["127.0.0.1"], HEALTH_TOKEN=token,
        ROOT_URLCONF="sheaf.common.apps.urls", DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.admin.apps.SimpleAdminConfig", *(f"django.contrib.{name}" for name in DJANGO_APPS),
            *(f"sheaf.common.apps.{site}" for site in SITES),
        ],
        MIGRATION_MODULES=dict.fromkeys(("admin", *DJANGO_APPS, *SITES)),  # tables straight from the models
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware", "whitenoise.middleware.WhiteNoiseMiddleware",
            "sheaf.common.apps.project.content_policy", "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
        TEMPLATES=[{
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": [f"django.{name}" for name in (
                    "template.context_processors.request", "contrib.auth.context_processors.auth",
                    "contrib.messages.context_processors.messages",
                )],
                "loaders": [("django.template.loaders.cached.Loader", [
                    # Django's search bar has no name a screen reader could say; this one has
                    ("django.template.loaders.locmem.Loader", {"admin/search_form.html": SEARCH_FORM}),
                    "django.template.loaders.app_directories.Loader",
                ])],
            },
        }],
        DATABASES={"default": _database(database)},
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",  # a reset of the data does not log out
        STATIC_URL="/static/", WHITENOISE_USE_FINDERS=True, WHITENOISE_MAX_AGE=3600,
        USE_TZ=True, TIME_ZONE="UTC", LANGUAGE_CODE="en-us", USE_I18N=False,
        LOGGING={"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR"}},
    )  # fmt: skip
    django.setup()
    for site in SITES:
        importlib.import_module(ADMIN_MODULES[site])


def application(database: Path) -> Callable[..., Any]:
    """The WSGI application over ``database``; each request opens and closes it, so a replaced file is seen at once."""
    from django.core.wsgi import get_wsgi_application
    from django.db import connections

    connections.close_all()
    connections["default"].settings_dict["NAME"] = connections.databases["default"]["NAME"] = str(database)
    return get_wsgi_application()


def session_cookie() -> str:
    """A signed session of the office worker."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.signed_cookies import SessionStore

    clerk, session = User.objects.get(pk=1), SessionStore()
    session[SESSION_KEY] = str(clerk.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = clerk.get_session_auth_hash()
    session.save()
    return str(session.session_key)


def content_policy(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Middleware: pages load nothing from elsewhere and are not framed."""

    def answer(request: Any) -> Any:
        response = get_response(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return answer


def _database(path: Path) -> dict[str, Any]:
    # the data is disposable: no journal file beside it that could outlive a reset, no waiting for the disk
    pragmas = "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF"
    return {
        "ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "CONN_MAX_AGE": 0, "ATOMIC_REQUESTS": True,
        "OPTIONS": {"init_command": pragmas, "transaction_mode": "IMMEDIATE", "timeout": 5},
    }  # fmt: skip
