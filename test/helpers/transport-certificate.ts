// A self-signed certificate for 127.0.0.1 and localhost, for tests alone: everybody has its key. Made with
// openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=kvring test" \
//   -addext "subjectAltName=IP:127.0.0.1,DNS:localhost"

export const TEST_KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgFwAI89edPUGmEMOi
RZqqfje68KkaAHTKVGG8nUJgQ26hRANCAASlluBArkaIHub5KODAtj8FH0L5o+X3
d+D2nE86pPp3BJl6Em8rFZFJg6GkqHU7a/akJZfC+3tYEsHYp+zJ9UrP
-----END PRIVATE KEY-----
`;

export const TEST_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBnzCCAUWgAwIBAgIUBsCHwL4n/qHdQapzG2Cu9Dys9D0wCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLa3ZyaW5nIHRlc3QwIBcNMjYxMTI0MDgzNzM4WhgPMjEyNjEw
MzEwODM3MzhaMBYxFDASBgNVBAMMC2t2cmluZyB0ZXN0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEpZbgQK5GiB7m+SjgwLY/BR9C+aPl93fg9pxPOqT6dwSZehJv
KxWRSYOhpKh1O2v2pCWXwvt7WBLB2KfsyfVKz6NvMG0wHQYDVR0OBBYEFBw7SjZA
7vNSlI9nnzJZv7HTDkPGMB8GA1UdIwQYMBaAFBw7SjZA7vNSlI9nnzJZv7HTDkPG
MA8GA1UdEwEB/wQFMAMBAf8wGgYDVR0RBBMwEYcEfwAAAYIJbG9jYWxob3N0MAoG
CCqGSM49BAMCA0gAMEUCIQCalvijurjq/cN5W5ydVntOripuDNwmmx5kt9I7ryqt
iwIgNfC5W10ymw+L062h5GMT44LtFScN6QSTDzoSadEn410=
-----END CERTIFICATE-----
`;
