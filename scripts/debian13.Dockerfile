# The checks of scripts/debian13 where Docker exists:
#
#   docker build -f scripts/debian13.Dockerfile .
FROM debian:13
COPY scripts/debian13 /usr/local/bin/debian13
RUN apt-get update \
    && apt-get install -y --no-install-recommends $(debian13 --packages) \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
WORKDIR /src
RUN scripts/debian13 --checks
